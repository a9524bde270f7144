"""What the model is taught: the next token at the end and at every exit, and the end to the exits.

An exit is useful when it says what the end would say, so its target moves during training from the
text's next token to the end's whole distribution (self-distillation, as in Be Your Own Teacher,
arXiv 1905.08094; exits trained jointly with the end as in LayerSkip, arXiv 2404.16710). The end
never learns from its exits: its distribution is detached. Schedules are not known here.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.backbone.model import EarlyExitLlama


def joint_loss(
    model: EarlyExitLlama,
    normed: Mapping[int, Tensor],
    targets: Tensor,
    *,
    weights: Sequence[float],
    taught_rows: Tensor,
    distil: float | Tensor,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the weighted mean of all losses and, by layer, each head's own (end under `depth`).

    normed: states [B, T, H] by layer, the end under `depth`; targets [B, T] int64; weights: one
    per exit, the end's is 1; taught_rows: int64 indices into the B·T positions, where the exits
    learn; distil: share of the end's distribution in an exit's target, 0 to 1, as a number or a
    tensor [] (which a compiler does not take for a constant). The reported loss of an exit is the
    cross entropy against its blended target.
    """
    flat = targets.flatten()
    end_logits = model.logits(normed[model.depth]).flatten(0, 1).float()
    losses = {model.depth: F.cross_entropy(end_logits, flat)}
    total = losses[model.depth]
    with torch.no_grad():
        blended = F.softmax(end_logits[taught_rows], dim=-1).mul_(distil)
        blended[torch.arange(len(taught_rows)), flat[taught_rows]] += 1 - distil
    for layer, weight in zip(model.exits, weights, strict=True):
        logits = model.logits(normed[layer].flatten(0, 1)[taught_rows]).float()
        losses[layer] = F.cross_entropy(logits, blended)
        total = total + weight * losses[layer]
    return total / (1 + sum(weights)), losses
