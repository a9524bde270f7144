"""The whole checkpoint, run by transformers apart from the services: what it would say itself.

It chooses as the services do, with the same function and the same noise. It times nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from shared.decoding.sampling import PrefixState, SamplingParameters, sample

_GREEDY = SamplingParameters()


class FullModel:
    """A checkpoint in float32, asked for its choice at every position of a text.

    Args:
        parameters: how it chooses. Where the end of a text is held back, so it is here:
            `min_new_tokens` and `eos_ids` are those of the request.
    """

    def __init__(self, folder: Path, parameters: SamplingParameters = _GREEDY) -> None:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model: Any = loaded.eval()
        self._parameters = parameters

    def agreeing(self, prompt: Sequence[int], tokens: Sequence[int], *, seed: int = 0) -> int:
        """How many of `tokens` are its own choice on the text before them, with the seed they were
        chosen with.
        """
        state, agreeing = PrefixState.start(prompt), 0
        positions = range(len(prompt), len(prompt) + len(tokens))
        for position, token, logits in zip(
            positions, tokens, self._logits(prompt, tokens), strict=True
        ):
            choice = sample(logits, state, self._parameters, seed=seed, index=0, position=position)
            agreeing += choice.token == token
            state = state.advance(token)
        return agreeing

    def _logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Logits [tokens, V], those before each of `tokens`."""
        with torch.inference_mode():
            found: torch.Tensor = self._model(torch.tensor([[*prompt, *tokens]])).logits[0]
        return found[len(prompt) - 1 : -1]
