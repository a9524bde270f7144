"""How near an answer is to the full model's own: token by token, text by text, and by ROUGE-L.

The full model is the checkpoint run whole by transformers, apart from the services. It times
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM


@dataclass(frozen=True, slots=True)
class Nearness:
    """Shares over a run's answers: tokens the full model would choose on that text, texts identical
    with cloud-only's, mean ROUGE-L (F measure) against cloud-only's text.
    """

    agreement: float
    identical: float
    rouge_l: float


class FullModel:
    """The whole checkpoint in float32, asked for its choice at every position of a text.

    Args:
        never: token ids it may not choose (the end of the text, where lengths are fixed).
    """

    def __init__(self, folder: Path, never: Sequence[int]) -> None:
        # It runs between measurements on a core that is shared with the edge.
        torch.set_num_threads(1)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model: Any = loaded.eval()
        self._never = list(never)

    def agreeing(self, prompt: Sequence[int], tokens: Sequence[int]) -> int:
        """How many of `tokens` are its own choice on the text before them."""
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *tokens]])
            logits = self._model(ids).logits[0]
            logits[:, self._never] = float("-inf")
        choices = logits.argmax(-1)[len(prompt) - 1 : -1]
        return int((choices == ids[0, len(prompt) :]).sum())


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer to be judged: its prompt's ids, its ids and its text."""

    prompt: Sequence[int]
    ids: Sequence[int]
    text: str


def nearness(model: FullModel, answers: Sequence[Judged], whole: Sequence[Judged]) -> Nearness:
    """Hold `answers` against the full model and against cloud-only's answers to the same prompts.

    Raises:
        ValueError: the two are not answers to the same number of prompts.
    """
    scorer = RougeScorer(["rougeL"])
    pairs = list(zip(answers, whole, strict=True))
    agreeing = sum(model.agreeing(each.prompt, each.ids) for each in answers)
    rouge = [_rouge_l(scorer, full.text, each.text) for each, full in pairs]
    return Nearness(
        agreement=agreeing / sum(len(each.ids) for each in answers),
        identical=sum(each.ids == full.ids for each, full in pairs) / len(pairs),
        rouge_l=sum(rouge) / len(rouge),
    )


def _rouge_l(scorer: RougeScorer, whole: str, text: str) -> float:
    """F measure; 1 for the same text, also where it has no word the scorer knows."""
    if text == whole:
        return 1.0
    return float(scorer.score(whole, text)["rougeL"].fmeasure)
