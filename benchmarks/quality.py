"""How near an answer is to the full model's own: token by token, text by text, and by ROUGE-L.

It times nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cli.full_model import FullModel
from training.evaluation.similarity import rouge_l


@dataclass(frozen=True, slots=True)
class Nearness:
    """Shares over a run's answers: tokens the full model would choose on that text, texts identical
    with cloud-only's, mean ROUGE-L (F measure) against cloud-only's text.
    """

    agreement: float
    identical: float
    rouge_l: float


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer to be judged: its prompt's ids, its ids, its text, the seed asked with."""

    prompt: Sequence[int]
    ids: Sequence[int]
    text: str
    seed: int = 0


def nearness(model: FullModel, answers: Sequence[Judged], whole: Sequence[Judged]) -> Nearness:
    """Hold `answers` against the full model and against cloud-only's answers to the same prompts.

    Raises:
        ValueError: the two are not answers to the same number of prompts.
    """
    pairs = list(zip(answers, whole, strict=True))
    agreeing = sum(model.agreeing(each.prompt, each.ids, seed=each.seed) for each in answers)
    rouge = rouge_l((full.text, each.text) for each, full in pairs)
    return Nearness(
        agreement=agreeing / sum(len(each.ids) for each in answers),
        identical=sum(each.ids == full.ids for each, full in pairs) / len(pairs),
        rouge_l=sum(rouge) / len(rouge),
    )
