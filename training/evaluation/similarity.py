"""How much of one text is in another: ROUGE-L, by the metric's usual implementation.

The F measure of the longest common subsequence of words (Lin, ROUGE: a package for automatic
evaluation of summaries, 2004, section 3). Words are runs of the letters a to z and digits,
without case and unstemmed: of a text in another script it sees nothing but equality.
"""

from collections.abc import Iterable

from rouge_score.rouge_scorer import RougeScorer


def rouge_l(pairs: Iterable[tuple[str, str]]) -> list[float]:
    """The F measure, 0 to 1, of each (target, text); 1 for the same text, words or none."""
    scorer = RougeScorer(["rougeL"])
    return [
        1.0 if text == target else float(scorer.score(target, text)["rougeL"].fmeasure)
        for target, text in pairs
    ]


def mean_rouge_l(pairs: Iterable[tuple[str, str]]) -> float | None:
    """The mean over pairs; None where there are none."""
    scores = rouge_l(pairs)
    return sum(scores) / len(scores) if scores else None
