"""transformers' own `generate`, which an engine has to beat to be worth its code."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer


class _Clock(BaseStreamer):
    """Notes when each token comes."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, value: Tensor) -> None:
        """The prompt first, then a token at a time."""
        del value
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to note."""


class Generate:
    """Greedy tokens of one text by transformers, eager, with its dynamic cache."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()

    def steps(self, context: int, tokens: int) -> Sequence[float]:
        """Seconds of each of `tokens` steps after a prompt of `context` random tokens."""
        clock = _Clock()
        prompt = torch.randint(5, 1000, (1, context))
        self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens + 1,
            min_new_tokens=tokens + 1,
            do_sample=False,
            streamer=clock,
            pad_token_id=0,
        )
        # The first moment is the prompt handed over, the second its own step.
        moments = clock.moments[1:]
        return [after - before for before, after in itertools.pairwise(moments)]
