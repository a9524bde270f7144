"""What every exit and the end of a checkpoint say at each position of a text.

The checkpoint runs on the engine that serves it, in float32: the figures are those of the shipped
files, and not of the run that made them. It knows neither thresholds nor which text is worth
reading.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from shared.decoding.certainty import certainty
from shared.decoding.sampling import SamplingParameters
from shared.errors import BadModel
from shared.model import LayerSpan, ModelShape, Segment, SpanModel, load_span
from shared.model.checkpoint import read_checkpoint
from shared.model.exits import Drafter, read_drafter, read_exits
from shared.model.fingerprint import fingerprint
from training.evaluation.writing import GREEDY, choose, write_on

# A head, and the states [T, H] that it reads.
_Said = tuple[Callable[[Tensor], Tensor], Tensor]
# The most logits of a row that are held at once: large vocabularies are read a few places a time.
_HELD = 2**22


@dataclass(frozen=True, slots=True)
class Reading:
    """What E exits and the end say after each of T tokens, in the order of their layers.

    choices [E+1, T] int64: the next token each chooses; signals [4, E+1, T] float32: the
    likeliest one's probability, and the others of `shared.exits.signals.FEATURES`, from raw logits;
    losses [E+1, T] float32: nats of the token that did follow (NaN after the last). The end is the
    last row.
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


def identity(folder: Path) -> str:
    """The fingerprint of the checkpoint in `folder`. Raises BadModel where there is none."""
    return fingerprint(folder, read_checkpoint(folder))


class Reader:
    """A checkpoint folder with its exits, loaded for measuring.

    `cut` is a split and an edge depth with a drafter beside the checkpoint: the exits are then the
    two of that edge, the drafter in place. `thresholds` are those of its exits, by layer, rising;
    `model` is all of it, exits included where no drafter stands in for its layers.
    Raises BadModel when the folder has no exits, no such drafter, or is not supported.
    """

    def __init__(
        self, folder: Path, *, cut: tuple[int, int] | None = None, device: str = "cpu"
    ) -> None:
        drafter = None if cut is None else read_drafter(folder, *cut)
        if cut is not None and drafter is None:
            raise BadModel(f"{folder} has no drafter for split {cut[0]} and edge depth {cut[1]}")
        if drafter is not None and drafter.model_fingerprint != identity(folder):
            raise BadModel(f"the drafter {cut} in {folder} was trained for other weights")
        exits = read_exits(folder).infos if drafter is None else drafter.infos
        if not exits:
            raise BadModel(f"{folder} has no exits")
        self.folder, self.cut = folder, cut
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
            exits=self.exits if drafter is None else (),
        )
        self._edge = self.model if drafter is None else self._load_edge(drafter)

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
    def read(
        self,
        ids: Sequence[int],
        start: int = 0,
        parameters: SamplingParameters = GREEDY,
        seed: int = 0,
    ) -> Reading:
        """Read one text of at most `max_positions` tokens; says what is said from `start` on, each
        choosing as in a request with these parameters.
        """
        tokens = self._tensor(ids)
        if self._edge is self.model:
            said = self._run(self.model, tokens, self.layers, start)
        else:
            said = self._run(self._edge, tokens, self.exits, start)
            said += self._run(self.model, tokens, (self._depth,), start)
        at_once = max(1, _HELD // self.model.shape.vocab)
        parts = []
        for first in range(0, len(tokens) - start, at_once):
            logits = torch.stack([head(states[first : first + at_once]) for head, states in said])
            place = start + first + 1
            losses = self._losses(logits, tokens[place : place + at_once])
            chosen = _choices(logits, parameters, seed, place)
            parts.append(Reading(chosen, certainty(logits).movedim(-1, 0).cpu(), losses.cpu()))
        return join(parts)

    def _losses(self, logits: Tensor, following: Tensor) -> Tensor:
        """[E+1, T] of logits [E+1, T, V], of tokens [T] or, after the last, [T - 1]."""
        losses = torch.full(logits.shape[:2], float("nan"), device=self._device)
        known = len(following)
        losses[:, :known] = F.cross_entropy(
            logits[:, :known].transpose(1, 2),
            following.expand(len(logits), -1),
            reduction="none",
        )
        return losses

    def _run(
        self, model: SpanModel, tokens: Tensor, stops: Sequence[int], first: int
    ) -> list[_Said]:
        """Each layer's head and the states from `first` on, of a span that begins at 0."""
        heads: list[_Said] = []
        with model.new_cache() as cache:
            states = None
            for start, stop in pairwise((0, *stops)):
                entering = tokens if states is None else None
                (states,) = model.forward([Segment(cache, start, stop, 0, entering, states)])
                head = model.logits if stop == self._depth else partial(model.exit_logits, stop)
                heads.append((head, states[first:]))
        return heads

    def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        parameters: SamplingParameters = GREEDY,
        seed: int = 0,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> list[list[int]]:
        """The whole model's answer to each prompt: up to `tokens` ids, end included; the seed of
        prompt n is `seed` + n. `progress` is told of how many prompts are answered.
        """
        how = {"end": self.tokenizer.eos_token_id, "parameters": parameters, "seed": seed}
        return write_on(self.model, prompts, tokens, **how, progress=progress)

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, device=self._device)

    def _load_edge(self, drafter: Drafter) -> SpanModel:
        return load_span(
            self.folder,
            LayerSpan(0, drafter.edge_depth, self._depth),
            dtype=torch.float32,
            device=self._device,
            embedding=True,
            head=False,
            exits=self.exits,
            drafter=drafter,
        )


def _choices(logits: Tensor, parameters: SamplingParameters, seed: int, first: int) -> Tensor:
    """[E+1, T] int64: the tokens of positions from `first` on, of logits [E+1, T, V]."""
    if not parameters.temperature:
        return logits.argmax(dim=-1).cpu()
    return torch.tensor(
        [
            [choose(row, parameters, seed, at) for at, row in enumerate(rows, first)]
            for rows in logits
        ]
    )
