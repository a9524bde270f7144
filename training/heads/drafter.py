"""The edge's own part of a model while it is trained to draft what the whole model would say.

States enter at the split, where the trunk ends: nothing below is held, so nothing below can change.
What is above is free, as nobody but this edge sees its states (self-drafting as in Kangaroo, arXiv
2404.18911, and LayerSkip, arXiv 2404.16710). Knows modules and tensors, neither texts nor files.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from shared.model import SpanModel
from shared.model.network import LAYERS, ExitHead, TranslatorShape
from training.heads.translators import translator_without_effect


class Drafter(nn.Module):
    """Layers [split, edge_depth) and the exit in front of edge_depth, with gradients.

    `whole` is a transformers causal LM whose weights are shared and never trained; the layers start
    as copies of its own, the exit as the edge's.
    """

    def __init__(self, whole: Any, edge: SpanModel, split: int, shape: TranslatorShape) -> None:
        super().__init__()
        self.split, self.edge_depth = split, edge.span.stop
        head = edge.network.exits[str(self.edge_depth)]
        assert isinstance(head, ExitHead)
        self.head = _trainable_head(head, edge.shape.hidden, shape)
        self.layers = nn.ModuleDict(
            {
                str(n): copy.deepcopy(whole.model.layers[n]).requires_grad_(True)
                for n in range(split, self.edge_depth)
            }
        )
        # Not a submodule: what it shares with the whole model must not be found by an optimiser.
        self._frame = [_frame(whole, self.layers, self.head)]

    def forward(self, states: Tensor) -> Tensor:
        """Logits [B, T, V] the exit reads when states [B, T, H] enter the split."""
        logits: Tensor = self._frame[0](inputs_embeds=states, use_cache=False).logits
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """What was trained, in bfloat16, under the names it replaces."""
        named = {f"{LAYERS}{name}": tensor for name, tensor in self.layers.state_dict().items()}
        exit_name = f"exits.{self.edge_depth}"
        named |= {f"{exit_name}.{name}": t for name, t in self.head.state_dict().items()}
        return {name: t.detach().to("cpu", torch.bfloat16) for name, t in named.items()}


class Passing(nn.Module):
    """Stands where a layer is not run; keeps the others' numbers as their model counts them."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """[B, T, H] unchanged."""
        return hidden_states


def _trainable_head(head: ExitHead, hidden: int, shape: TranslatorShape) -> ExitHead:
    """The exit to start from; a translator of this shape and of no effect yet is put before it
    where it has none.
    """
    trained = copy.deepcopy(head).float()
    if trained.translator is None:
        trained.translator = translator_without_effect(shape, hidden)
    return trained.requires_grad_(True)


def _frame(whole: Any, layers: nn.ModuleDict, head: ExitHead) -> nn.Module:
    """The whole model's class with only the trained layers in their places: masks, positions and
    caps are its own. Untyped: the model classes share no typed interface.
    """
    with torch.device("meta"):
        frame: Any = type(whole)(whole.config)
    inner = frame.model
    for n in range(len(inner.layers)):
        inner.layers[n] = layers[str(n)] if str(n) in layers else Passing()
    inner.norm = head
    inner.embed_tokens, inner.rotary_emb = whole.model.embed_tokens, whole.model.rotary_emb
    frame.lm_head = whole.lm_head
    result: nn.Module = frame
    return result
