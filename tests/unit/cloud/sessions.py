"""Blocks of toy sessions, made by hand: what an edge with the toy model would send.

Knows the protocol and the toy model, not the code under test.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from services.cloud.contexts import Context
from shared.decoding.sampling import SAMPLER_VERSION
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import Block, HiddenBlock, Opening, Sampling, Want
from shared.protocol.wire import canonical
from shared.quantization import encode
from tests.support.toy_cloud import FINGERPRINT
from tests.support.toy_model import DEPTH, SPLIT, states_of

TEXT = (1, 5, 3, 3, 0, 7, 11, 2, 4, 9)
SESSION = "session-1"
OPENING = Opening(
    fingerprint=FINGERPRINT,
    trunk_format="fp32",
    sampler_version=SAMPLER_VERSION,
    depth=DEPTH,
    split=SPLIT,
    mode="split",
    codec="fp16",
    prompt_tokens=3,
    max_positions=24,
    sampling=Sampling(),
)
CLOUD_OPENING = replace(OPENING, mode="cloud", split=0)


def coded(tokens: Sequence[int], start: int, stop: int) -> HiddenBlock:
    """The states of positions [start, stop) of `tokens`."""
    rows = [list(below) for below, _ in states_of(tokens)[start:stop]]
    return encode(torch.tensor(rows, dtype=torch.float32), "fp16")


def digest_of(tokens: Sequence[int], opening: Opening = OPENING, session: str = SESSION) -> bytes:
    """The name of the prefix `tokens`."""
    root = root_digest(opening.fingerprint, session, canonical(opening))
    return [root, *extend_all(root, tokens)][-1]


def block(
    stop: int,
    start: int = 0,
    *,
    text: Sequence[int] = TEXT,
    opening: Opening = OPENING,
    **more: Any,
) -> Block:
    """Positions [start, stop) of `text`, opening the session; `more` replaces any field."""
    fields: dict[str, Any] = {
        "session": SESSION,
        "sequence": stop,
        "revision": 0,
        "acknowledged": 0,
        "parent": digest_of(text[:start], opening, more.get("session", SESSION)),
        "start": start,
        "tokens": tuple(text[start:stop]),
        "binding": stop,
        "states": coded(text, start, stop) if opening.split and start < stop else None,
        "opening": opening,
    }
    return Block(**fields | more)


def ask(stop: int, start: int = 0, **more: Any) -> Block:
    """The same, wanting the token that follows."""
    wanted: dict[str, Any] = {"want": Want.NOW, "count": 1}
    return block(stop, start, **wanted | more)


def snapshot(context: Context) -> dict[str, object]:
    """Everything a context holds, as values that later changes do not reach."""
    kept = {k: v for k, v in vars(context).items() if k not in {"turn", "cache", "states"}}
    kept = {k: list(v) if isinstance(v, list) else v for k, v in kept.items()}
    kept["claim"] = asdict(context.claim)
    log = context.states
    return kept | {"log": (log.end, bytes(log._payload), bytes(log._scales))}
