"""Texts of tiny models in float64 by real services: every way of choosing, every pacing of drafts.

Float64 leaves nothing to rounding: where two ways to a text are the same mathematics, they give the
same tokens, without allowance.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.support import worded_model
from tests.support.apps import (
    Answer,
    ask,
    cloud_app,
    edge_client,
    running,
    until_cloud_is,
)
from tests.support.reference import loaded
from tests.support.wishes import Wish

# At this share of what random layers add, the edge's exit is right half of the time.
UPPER = 0.25
TOGETHER = 8
SAMPLED: Mapping[str, Any] = {"temperature": 0.8, "top_p": 0.95}
# Settings of an edge, from one draft at a time, verified at once, to trees that run far ahead.
PACINGS: Sequence[Mapping[str, Any]] = (
    {"draft_width": 1, "draft_floor": 0, "draft_doubt": 1, "draft_longest": 1, "draft_most": 1},
    {"draft_width": 1, "draft_floor": 0, "draft_doubt": 0, "draft_longest": 6, "draft_most": 12},
    {
        "draft_width": 5,
        "draft_floor": 0,
        "draft_doubt": 0.1,
        "draft_plan": "draft",
        "draft_sure": 0,
    },
    {"draft_width": 3, "draft_most": 16, "draft_ahead": 3, "draft_plan": "assist"},
    {"draft_plan": "race", "draft_sure": 0.8},
    {"draft_plan": "cloud"},
    {},
)


def wishes(count: int, new_tokens: int, *, first: int = 0) -> list[Wish]:
    """Greedy and sampled, with penalties, least lengths, masks and stop strings; which of them
    comes first is `first`.
    """
    ways: Sequence[Mapping[str, Any]] = (
        {},
        SAMPLED,
        {"repetition_penalty": 1.3, "min_new_tokens": new_tokens // 2},
        {**SAMPLED, "repetition_penalty": 1.2, "min_new_tokens": new_tokens},
        {"stop": ["w11", "w3 w"]},
        {**SAMPLED, "top_k": 20, "min_new_tokens": 4, "stop": ["w5 ", "9 w9"]},
    )
    return [
        Wish(prompt, {"max_new_tokens": new_tokens, "seed": n, **ways[(first + n) % len(ways)]})
        for n, prompt in enumerate(worded_model.prompts(count))
    ]


@cache
def clouds(family: str, count: int, new_tokens: int, first: int) -> list[Answer]:
    """What mode `cloud` makes of the wishes."""
    given = wishes(count, new_tokens, first=first)
    asked = [{"mode": "cloud", **wish.parameters} for wish in given]
    return asyncio.run(answers(family, given, asked))


async def answers(
    family: str,
    given: Sequence[Wish],
    asked: Iterable[Mapping[str, Any]],
    *,
    cloud_start: int = 0,
    together: int = TOGETHER,
) -> list[Answer]:
    """Every wish's answer under the parameters asked for, each `PACINGS`-th from an edge of its
    own, so many at once.
    """
    folders = worded_model.bundles(family, UPPER, cloud_start)
    room = asyncio.Semaphore(together)
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(
            running(cloud_app(folders.cloud, _exact(folders.cloud)))
        )
        edges = [
            await stack.enter_async_context(
                edge_client(cloud, folders.edge, _exact(folders.edge), **pacing)
            )
            for pacing in PACINGS
        ]
        for edge in edges:
            await until_cloud_is("reachable", edge)

        async def answer(n: int, wish: Wish, parameters: Mapping[str, Any]) -> Answer:
            async with room:
                return await ask(edges[n % len(edges)], wish.prompt, **parameters)

        pairs = enumerate(zip(given, asked, strict=True))
        return await asyncio.gather(*(answer(n, wish, more) for n, (wish, more) in pairs))


def _exact(folder: Path) -> Any:
    return loaded(folder, torch.float64)
