"""transformers on a checkpoint in float32: `generate`, plain and assisted by its own early exit.

Assisted (`assistant_early_exit`), the first layers draft up to 20 tokens, or as long as they are
sure, and the whole model checks them in one pass, so the text is `generate`'s. transformers reads a
draft through the model's final norm and head: exits trained beside a checkpoint are not used. It
knows nothing of our services.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from benchmarks.peers.peer import Answered, Length
from cli.errors import CommandError

PLAIN = "transformers generate"
EARLY_EXIT = "transformers early exit"


class Arrivals(BaseStreamer):
    """Notes when tokens come out of `generate`; tokens accepted in one pass come together."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then new tokens."""
        if self._prompt_seen:
            self.times += [time.perf_counter()] * value.numel()
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing follows."""


@dataclass(frozen=True, slots=True)
class TransformersPeer:
    """`generate` on one loaded model; `early_exit` is the layer drafts leave at, None for none."""

    name: str
    core: int
    model: PreTrainedModel
    early_exit: int | None = None

    def answer(self, ids: Sequence[int], length: Length) -> Answered:
        """Go on from the prompt `ids` greedily."""
        arrivals = Arrivals()
        generate: Any = self.model.generate
        asked: dict[str, object] = {"max_new_tokens": length.new_tokens, "do_sample": False}
        if length.eos_ids:
            asked |= {"eos_token_id": list(length.eos_ids), "pad_token_id": length.eos_ids[0]}
        if length.exactly:
            asked["min_new_tokens"] = length.new_tokens
        if self.early_exit is not None:
            asked["assistant_early_exit"] = self.early_exit
        began = time.perf_counter()
        prompt = torch.tensor([list(ids)])
        out: Tensor = generate(
            prompt, attention_mask=torch.ones_like(prompt), streamer=arrivals, **asked
        )
        return Answered.of(out[0, len(ids) :].tolist(), began, arrivals.times)


def load(folder: Path, *, core: int, early_exit: int) -> list[TransformersPeer]:
    """Both peers, on one copy of the checkpoint in `folder`; drafts leave before layer
    `early_exit`.

    Raises:
        CommandError: the model cannot be loaded, or has no such layer inside.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise CommandError(f"transformers cannot load {folder}: {error}") from error
    depth = model.config.num_hidden_layers
    if not 0 < early_exit < depth:
        raise CommandError(f"no early exit at layer {early_exit}: the model has {depth} layers")
    # A checkpoint may ask for sampling or penalties; the peers are greedy as our services are.
    model.generation_config = GenerationConfig()
    return [
        TransformersPeer(PLAIN, core, model),
        TransformersPeer(EARLY_EXIT, core, model, early_exit),
    ]
