"""What every exit and the end of a checkpoint say at each position of a text.

The checkpoint runs on the engine that serves it, in float32: the figures are those of the shipped
files, and not of the run that made them. It knows neither thresholds nor which text is worth
reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from shared.decoding.sampling import SamplingParameters
from shared.errors import BadModel
from shared.model import LayerSpan, ModelShape, Segment, load_span
from shared.model.exits import read_exits
from training.writing import GREEDY, write_on


@dataclass(frozen=True, slots=True)
class Reading:
    """What E exits and the end say after each of T tokens, in the order of their layers.

    choices [E+1, T] int64: the likeliest next token; signals [4, E+1, T] float32: its probability
    and the others of `shared.exits.signals.FEATURES`, of raw logits; losses [E+1, T] float32: nats
    of the token that did follow (NaN after the last). The end is the last row.
    """

    choices: Tensor
    signals: Tensor
    losses: Tensor

    @property
    def confidence(self) -> Tensor:
        """[E+1, T] float32: the likeliest token's probability."""
        return self.signals[0]

    @property
    def agrees(self) -> Tensor:
        """[E, T] bool: where an exit chooses as the end does."""
        return self.choices[:-1] == self.choices[-1]

    def at(self, start: int, stop: int) -> "Reading":
        """The same at positions [start, stop)."""
        span = slice(start, stop)
        return Reading(self.choices[:, span], self.signals[:, :, span], self.losses[:, span])


def join(readings: Sequence[Reading]) -> Reading:
    """Readings of several texts as one."""
    return Reading(
        torch.cat([r.choices for r in readings], dim=1),
        torch.cat([r.signals for r in readings], dim=2),
        torch.cat([r.losses for r in readings], dim=1),
    )


def signals_of(logits: Tensor) -> Tensor:
    """[..., V] raw logits in, [4, ...] float32 out: for p their softmax, p's highest, the entropy
    of p in nats, its highest less its second, and the entropy of p^2 / sum(p^2) in nats (the
    features of JEI-DNN's gates, arXiv 2310.09163).
    """
    logs = logits.float().log_softmax(dim=-1)
    first, second = logs.exp().topk(2, dim=-1).values.unbind(dim=-1)
    # p^2 / sum(p^2) is the softmax at half the temperature.
    sharp = (2 * logs).log_softmax(dim=-1)
    return torch.stack([first, _entropy(logs), first - second, _entropy(sharp)])


def _entropy(logs: Tensor) -> Tensor:
    """[..., V] log-probabilities in, [...] nats out; rounding never makes it negative."""
    return -torch.xlogy(logs.exp(), logs.exp()).sum(dim=-1).clamp(max=0)


class Reader:
    """A checkpoint folder with its exits, loaded for measuring.

    `thresholds` are those of its exits, by layer, rising; `model` is all of it, exits included.
    Raises BadModel when the folder has no exits or is not supported.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        exits = read_exits(folder).infos
        if not exits:
            raise BadModel(f"{folder} has no exits")
        self.folder = folder
        self.thresholds = {layer: exits[layer].threshold for layer in sorted(exits)}
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        shape = ModelShape.of(AutoConfig.from_pretrained(folder))
        self.max_positions = shape.max_positions
        self._depth = shape.depth
        self._device = device
        self.model = load_span(
            folder,
            LayerSpan(0, shape.depth, shape.depth),
            dtype=torch.float32,
            device=device,
            embedding=True,
            head=True,
            exits=self.exits,
        )

    @property
    def exits(self) -> tuple[int, ...]:
        """Layers in front of which there is an exit, rising."""
        return tuple(self.thresholds)

    @property
    def layers(self) -> tuple[int, ...]:
        """The exits and the end: the rows of a reading, by layer; the end is the model's depth."""
        return (*self.exits, self._depth)

    def ids(self, text: str) -> list[int]:
        """The text's tokens, those that the tokenizer adds included."""
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(list(ids)))

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Reading:
        """Read one text of at most `max_positions` tokens."""
        tokens = self._tensor(ids)
        heads = []
        with self.model.new_cache() as cache:
            states = None
            for start, stop in pairwise((0, *self.layers)):
                entering = tokens if states is None else None
                (states,) = self.model.forward([Segment(cache, start, stop, 0, entering, states)])
                heads.append(self._logits(stop, states))
        logits = torch.stack(heads)
        unknown = torch.full((len(logits), 1), float("nan"), device=self._device)
        following = tokens[1:].expand(len(logits), -1)
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), following, reduction="none")
        losses = torch.cat([losses, unknown], dim=1)
        return Reading(logits.argmax(dim=-1).cpu(), signals_of(logits).cpu(), losses.cpu())

    def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        parameters: SamplingParameters = GREEDY,
    ) -> list[list[int]]:
        """The whole model's answer to each prompt: up to `tokens` ids, end included."""
        end = self.tokenizer.eos_token_id
        return write_on(self.model, prompts, tokens, end=end, parameters=parameters)

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, device=self._device)

    def _logits(self, layer: int, states: Tensor) -> Tensor:
        if layer == self._depth:
            return self.model.logits(states)
        return self.model.exit_logits(layer, states)
