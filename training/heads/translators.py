"""Exits for a model that was trained without any: a translator and a norm in front of each.

What the exit reads is corrected so that the model's own unembedding makes of it what the end says
(the tuned lens: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned
Lens", arXiv 2303.08112, section 3). The model is frozen and runs on the engine that serves it;
only translators and norms have gradients. Knows tensors, neither texts nor files.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.model import Segment, SpanModel
from shared.model.network import ExitHead, Translator, TranslatorShape

# Logits are made in chunks of about so many numbers, which stay in a core's cache; but of no fewer
# than so many rows, for the sake of the matrix products.
_LOGITS, _ROWS = 1 << 20, 64


def translator_without_effect(
    shape: TranslatorShape, hidden: int, device: torch.device | str = "cpu"
) -> nn.Module | None:
    """A translator of this shape, [R, H] to [R, H], that changes nothing yet; None for no shape."""
    translator = shape.build(hidden)
    if translator is None:
        return None
    translator = translator.to_empty(device=device)
    if isinstance(translator, Translator):
        nn.init.normal_(translator.down.weight, std=hidden**-0.5)
        nn.init.zeros_(translator.up.weight)
    elif isinstance(translator, nn.Linear):
        nn.init.eye_(translator.weight)
        nn.init.zeros_(translator.bias)
    return translator


def named(shape: TranslatorShape) -> str:
    """A shape in words."""
    if shape.rank is not None:
        return f"of rank {shape.rank}"
    return "affine" if shape.affine else "none"


@dataclass(frozen=True, slots=True)
class States:
    """What a frozen model makes of R tokens: the states [R, H] that enter each exit's layer, and
    the end's normed states [R, H].
    """

    entering: Mapping[int, Tensor]
    end: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(states.nbytes for states in (*self.entering.values(), self.end))


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near an exit is to the end on some tokens: the share of them where both would choose the
    same token, and the mean divergence KL(end || exit) in nats.
    """

    agreement: float
    divergence: float


class Translators(nn.Module):
    """One exit in front of each of some layers of a whole model, to be taught what its end says.

    They start as copies of the final norm behind translators without effect: as a logit lens.
    `model` has embedding and head; its weights are shared and never trained. Raises ValueError for
    a layer that no state of the model enters, or that no layer follows.
    """

    def __init__(
        self, model: SpanModel, layers: Sequence[int], shape: TranslatorShape, *, seed: int = 0
    ) -> None:
        super().__init__()
        depth = model.span.depth
        for layer in layers:
            if not 0 < layer < depth:
                raise ValueError(f"an exit lies in front of layer 1 to {depth - 1}, not {layer}")
        self.layers = tuple(sorted(set(layers)))
        self.heads = nn.ModuleDict()
        torch.manual_seed(seed)
        for layer in self.layers:
            assert model.network.model.norm is not None
            norm = copy.deepcopy(model.network.model.norm)
            translator = translator_without_effect(shape, model.shape.hidden, model.device)
            self.heads[str(layer)] = ExitHead(norm, translator).float().requires_grad_(True)
        # Not a submodule: the frozen weights must not be found by an optimiser.
        self._model = [model]

    @property
    def model(self) -> SpanModel:
        """The whole model."""
        return self._model[0]

    def read(self, texts: Sequence[Tensor]) -> States:
        """Run texts of ids [T] through the frozen model, each from its first token."""
        model, states, start = self.model, None, 0
        entering: dict[int, Tensor] = {}
        with ExitStack() as stack:
            caches = [stack.enter_context(model.new_cache()) for _ in texts]
            for stop in (*self.layers, model.span.depth):
                given = texts if states is None else [None] * len(texts)
                earlier = [None] * len(texts) if states is None else states
                segments = [
                    Segment(cache, start, stop, 0, ids, before)
                    for cache, ids, before in zip(caches, given, earlier, strict=True)
                ]
                states = model.forward(segments)
                entering[stop] = torch.cat(states)
                start = stop
        assert model.network.model.norm is not None
        with torch.no_grad():
            end = model.network.model.norm(entering.pop(model.span.depth))
        return States(entering, end)

    def measure(
        self, states: Sequence[States], heads: Mapping[int, nn.Module] | None = None
    ) -> dict[int, Likeness]:
        """How near each exit is to the end, over all of the states; `heads` are asked instead of
        these exits where they are given, by their layers.
        """
        heads = self._by_layer if heads is None else heads
        agreeing, diverging = dict.fromkeys(heads, 0.0), dict.fromkeys(heads, 0.0)
        with torch.no_grad():
            for batch in states:
                for target, layer, logits in self._compare(batch, _normed(heads, batch)):
                    agreeing[layer] += float((logits.argmax(dim=-1) == target.choices).sum())
                    diverging[layer] += float(target.divergence(logits))
        rows = max(1, sum(len(batch.end) for batch in states))
        return {layer: Likeness(agreeing[layer] / rows, diverging[layer] / rows) for layer in heads}

    def learn(self, states: States) -> dict[int, float]:
        """Add the gradients of each exit's mean divergence, in nats; returns it."""
        normed = _normed(self._by_layer, states)
        # Each chunk's gradient ends at the normed states: there is never more than one chunk of
        # logits.
        leaves = {layer: said.detach().requires_grad_(True) for layer, said in normed.items()}
        found = dict.fromkeys(self.layers, 0.0)
        for target, layer, logits in self._compare(states, leaves):
            loss = target.divergence(logits) / len(states.end)
            loss.backward()
            found[layer] += float(loss.detach())
        for layer, leaf in leaves.items():
            normed[layer].backward(leaf.grad)
        return found

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What was learned under the names of a checkpoint's exits."""
        return {
            f"exits.{layer}.{name}": tensor.detach().to("cpu", dtype, copy=True).contiguous()
            for layer in self.layers
            for name, tensor in self.heads[str(layer)].state_dict().items()
        }

    def round_to(self, dtype: torch.dtype) -> None:
        """Round what was learned to what a file of `dtype` will hold."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(parameter.to(dtype))

    @property
    def _by_layer(self) -> dict[int, nn.Module]:
        return {layer: self.heads[str(layer)] for layer in self.layers}

    def _compare(
        self, states: States, normed: Mapping[int, Tensor]
    ) -> Iterator[tuple["_Target", int, Tensor]]:
        """Chunk by chunk: what the end says, and each exit with its logits [rows, V]."""
        size = max(_ROWS, _LOGITS // self.model.shape.vocab)
        for first in range(0, len(states.end), size):
            rows = slice(first, first + size)
            with torch.no_grad():
                target = _Target(self.model.unembed(states.end[rows]))
            for layer, hidden in normed.items():
                yield target, layer, self.model.unembed(hidden[rows])


def _normed(heads: Mapping[int, nn.Module], states: States) -> dict[int, Tensor]:
    return {layer: head(states.entering[layer]) for layer, head in heads.items()}


class _Target:
    """The end's logits [R, V] as what an exit is compared with."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        said = logits.log_softmax(dim=-1)
        self._shares = said.exp()
        self._entropy = -torch.vdot(self._shares.flatten(), said.flatten())

    @property
    def choices(self) -> Tensor:
        """The likeliest tokens [R]."""
        return self._logits.argmax(dim=-1)

    def divergence(self, logits: Tensor) -> Tensor:
        """The sum over rows of KL(end || exit), in nats."""
        return F.cross_entropy(logits, self._shares, reduction="sum") - self._entropy
