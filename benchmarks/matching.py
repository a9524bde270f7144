"""The threshold that offloads a wanted share of tokens: the paper's share on another model.

The paper's exits are sure of half of their tokens at 0.8; a small model's are not. Comparing costs
at the same share asks for another threshold, found here by bisection.
"""

from collections.abc import Callable

ROUNDS = 7


def threshold_for(share: float, offloaded: Callable[[float], float]) -> float:
    """The threshold whose offloaded share is nearest to `share` of those tried.

    Args:
        share: wanted, of all tokens.
        offloaded: share at a threshold, by asking; grows with it but for texts that change.
    """
    low, high = 0.0, 1.0
    best, nearest = 1.0, float("inf")
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        found = offloaded(middle)
        if abs(found - share) < nearest:
            best, nearest = middle, abs(found - share)
        if found < share:
            low = middle
        else:
            high = middle
    return best
