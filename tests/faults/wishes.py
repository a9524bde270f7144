"""The requests of the fault suite: every way to use the cloud, greedy and sampled.

States travel as float32, so what the full model says of a margin holds for what the cloud saw.
"""

from collections.abc import Mapping
from typing import Any

from tests.support.prompts import prompts
from tests.support.reference import text
from tests.support.wishes import Wish

NEW_TOKENS = 24
WAYS: Mapping[str, Mapping[str, Any]] = {
    "collaborative": {"mode": "collaborative", "threshold": 0.3},
    "repair": {"mode": "collaborative", "threshold": 0.2, "repair": True},
    "verified states": {"mode": "verified", "verify": "states"},
    "verified ids": {"mode": "verified", "verify": "ids"},
    "cloud": {"mode": "cloud"},
    "split": {"mode": "split"},
}
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "seed": 11},
}


def wish(way: str, choice: str = "greedy", *, tokens: int = NEW_TOKENS, story: int = 0) -> Wish:
    """A request of exactly so many tokens."""
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    codec = {} if way in ("cloud", "verified ids") else {"codec": "fp32"}
    return Wish(
        prompts(text(), story + 1)[story], {**length, **WAYS[way], **codec, **CHOICES[choice]}
    )
