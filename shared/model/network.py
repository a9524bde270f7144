"""The modules of a span, with the names its tensors have in the checkpoint.

Built from transformers' own classes on the meta device, so building costs no memory; only what the
span needs is kept. Reads no file and runs nothing.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import BadModel
from shared.model.families import Source
from shared.model.span import LayerSpan

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
UNEMBEDDING = "lm_head.weight"
LAYERS = "model.layers."


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a model is held: a span, and whether with embedding, with final norm and unembedding
    (`head`), and with exits in front of which layers.

    Raises:
        ValueError: the head without the last layer, or an exit the span's states do not reach.
    """

    span: LayerSpan
    embedding: bool
    head: bool
    exits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.head and self.span.stop != self.span.depth:
            raise ValueError("the head belongs to a span that reaches the last layer")
        if self.embedding and self.span.start != 0:
            raise ValueError("the embedding belongs to a span that starts at layer 0")
        for layer in self.exits:
            if not self.span.start < layer <= self.span.stop:
                raise ValueError(f"no state of {self.span} enters layer {layer}")

    @property
    def unembedding(self) -> bool:
        """Whether logits are computed anywhere."""
        return self.head or bool(self.exits)


@dataclass(frozen=True, slots=True)
class TranslatorShape:
    """What corrects an exit's states before its norm: a low-rank residual of this rank, an affine
    map, or (neither) nothing.
    """

    rank: int | None = None
    affine: bool = False

    def build(self, hidden: int) -> nn.Module | None:
        """The modules on the meta device."""
        with torch.device("meta"):
            if self.rank is not None:
                return Translator(hidden, self.rank)
            return nn.Linear(hidden, hidden) if self.affine else None


class Translator(nn.Module):
    """An exit's low-rank correction h + up(down(h)), as in a residual adapter."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, rank, bias=False)
        self.up = nn.Linear(rank, hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[R, H] to [R, H]."""
        corrected: Tensor = hidden + self.up(self.down(hidden))
        return corrected


class ExitHead(nn.Module):
    """What an exit has of its own in front of the shared unembedding: norm and translator.

    An affine translator replaces h by W h + b before the norm (Belrose et al., "Eliciting Latent
    Predictions from Transformers with the Tuned Lens", arXiv 2303.08112).
    """

    def __init__(self, norm: nn.Module, translator: nn.Module | None) -> None:
        super().__init__()
        self.norm = norm
        self.translator = translator

    def forward(self, hidden: Tensor) -> Tensor:
        """[R, H] to [R, H], ready for the unembedding."""
        if self.translator is not None:
            hidden = self.translator(hidden)
        normed: Tensor = self.norm(hidden)
        return normed


class Body(nn.Module):
    """Everything of a span below its heads; what it does not hold is None."""

    def __init__(self, skeleton: nn.Module, parts: Parts, *, tied: bool) -> None:
        super().__init__()
        # Untyped: what the six model classes have in common has no type of its own.
        whole: Any = skeleton
        keep_embedding = parts.embedding or (tied and parts.unembedding)
        self.embed_tokens: nn.Embedding | None = whole.embed_tokens if keep_embedding else None
        self.layers = nn.ModuleDict({str(n): whole.layers[n] for n in parts.span.layers})
        self.norm: nn.Module | None = whole.norm if parts.head else None
        self.rotary_emb: nn.Module = whole.rotary_emb


class Network(nn.Module):
    """A span's modules on the meta device; its state dict uses the checkpoint's names.

    `translators` describes every exit of `parts`. An exit's norm is of the final norm's class.
    """

    def __init__(
        self, source: Source, parts: Parts, translators: Mapping[int, TranslatorShape]
    ) -> None:
        super().__init__()
        whole = _skeleton(source)
        self.tied = source.tied
        self.model = Body(whole.model, parts, tied=source.tied)
        self.lm_head: nn.Linear | None = whole.lm_head if parts.unembedding else None
        self.exits = nn.ModuleDict()
        for layer in parts.exits:
            translator = translators[layer].build(source.config.hidden_size)
            self.exits[str(layer)] = ExitHead(copy.deepcopy(whole.model.norm), translator)
        _fill_buffers(whole, self)

    def expected(self) -> dict[str, torch.Size]:
        """Names and shapes of the tensors it must be given; a tied unembedding is not among
        them.
        """
        named = {name: tensor.shape for name, tensor in self.state_dict().items()}
        if self.tied:
            named.pop(UNEMBEDDING, None)
        return named

    def assign(self, name: str, tensor: Tensor) -> None:
        """Put `tensor` in the place of the parameter `name`."""
        owner, _, leaf = name.rpartition(".")
        setattr(self.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))

    def finish(self, device: torch.device) -> None:
        """Tie what is tied, move the buffers, and prove that nothing is left on the meta device.

        Raises:
            BadModel: naming a tensor that nothing filled.
        """
        if self.tied and self.lm_head is not None:
            assert self.model.embed_tokens is not None
            self.lm_head.weight = self.model.embed_tokens.weight
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if not buffer.is_meta:
                    setattr(module, name, buffer.to(device))
        self.eval()
        _prove_filled([*self.named_parameters(), *self.named_buffers()])


def all_names(source: Source) -> dict[str, torch.Size]:
    """Names and shapes of every tensor a checkpoint of `source` holds; of these only a tied
    unembedding may be absent.
    """
    state: Mapping[str, Tensor] = _skeleton(source).state_dict()
    return {name: tensor.shape for name, tensor in state.items()}


def _skeleton(source: Source) -> Any:
    """The whole model without memory. Untyped: the six classes share no typed interface."""
    config = copy.deepcopy(source.config)
    config._attn_implementation = "eager"  # never run: any would do, and this one is always there
    try:
        with torch.device("meta"):
            return source.family.model(config)
    except Exception as error:  # whatever a class dislikes in its own configuration
        raise BadModel(f"{source.architecture} cannot be built: {error}") from error


def _fill_buffers(whole: Any, network: Network) -> None:
    """Compute the buffers no checkpoint holds (rotary frequencies, embedding scale).

    They are computed by the model class itself; parameters are still on the meta device, where
    initialising them does nothing. A buffer it forgets stays NaN and is found by `_prove_filled`.
    In float64 they hold whatever it computes unrounded; each user converts to the dtype it needs.
    """
    for module in network.modules():
        missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in missing:
            shape = getattr(module, name).shape
            setattr(module, name, torch.full(shape, math.nan, dtype=torch.float64))
        if missing:
            whole._init_weights(module)


def _prove_filled(tensors: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in tensors:
        if tensor.is_meta:
            raise BadModel(f"tensor {name} was never filled")
        if tensor.dtype.is_floating_point and tensor.dim() < 2 and bool(tensor.isnan().any()):
            raise BadModel(f"tensor {name} holds NaN")
