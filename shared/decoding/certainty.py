"""How sure a distribution is: the four signals of `shared.exits.signals`, from logits."""

import torch
from torch import Tensor

from shared.exits.signals import Signals


def certainty(logits: Tensor) -> Tensor:
    """Return per row top probability, entropy, margin and sharp entropy, [..., 4] float32.

    A row does not look at its neighbours: in a batch it is what it is alone (beyond some 30,000
    tokens several threads share the sums of a row that is alone, which rounds them otherwise).

    Args:
        logits: [..., V] of any floating dtype, on any device; V of at least 2.
    """
    # Their distance to the best: neither twice it nor its exponential can overflow.
    raw = logits.float()
    raw = raw - raw.amax(dim=-1, keepdim=True)
    shares = raw.softmax(dim=-1)
    first, second = shares.topk(2, dim=-1).values.unbind(dim=-1)
    # p^2 / sum(p^2) is the softmax of twice the logits.
    squared = (2 * raw).softmax(dim=-1)
    entropy, sharp = (torch.special.entr(each).sum(dim=-1) for each in (shares, squared))
    return torch.stack([first, entropy, first - second, sharp], dim=-1)


def signals_of(logits: Tensor) -> list[Signals]:
    """`certainty` as plain values, a row each."""
    return [Signals(*row) for row in certainty(logits).tolist()]
