"""Mode `verified` on the reference model in float32: the text of mode `cloud` but for near ties.

With rounded states it is a text close to that; how close is measured here.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from tests.support.apps import Answer, ids_of, sources_of
from tests.support.prompts import prompts
from tests.support.reference import tau, text
from tests.support.results import Figure
from tests.support.size import Size
from tests.support.wishes import Wish, full_choice, parting, require_same, together

NEW_TOKENS = 48
WAYS: Mapping[str, Mapping[str, Any]] = {
    "states": {"verify": "states", "codec": "fp32"},
    "ids": {"verify": "ids"},
}
Record = Callable[[str, Figure], None]


@cache
def wishes(count: int) -> list[Wish]:
    """Every other one sampled, every third to the last token, every fourth with a penalty."""
    made = []
    for n, prompt in enumerate(prompts(text(), count)):
        parameters: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "seed": n}
        if n % 2:
            parameters |= {"temperature": 0.8, "top_p": 0.95}
        if n % 3 == 0:
            parameters |= {"min_new_tokens": NEW_TOKENS}
        if n % 4 == 2:
            parameters |= {"repetition_penalty": 1.2}
        made.append(Wish(prompt, parameters))
    return made


def asked(count: int, **parameters: Any) -> list[Wish]:
    return [Wish(wish.prompt, {**wish.parameters, **parameters}) for wish in wishes(count)]


@cache
def clouds(count: int) -> list[Answer]:
    return asyncio.run(together(asked(count, mode="cloud")))


def count_of(size: Size) -> int:
    return size.pick(short=12, long=50)


@pytest.mark.parametrize("way", WAYS)
def test_a_verified_text_is_the_clouds_but_for_near_ties(
    way: str, size: Size, record_figure: Record
) -> None:
    given = asked(count_of(size), mode="verified", **WAYS[way])
    made = asyncio.run(together(given))
    margins = []
    for wish, one, other in zip(given, made, clouds(count_of(size)), strict=True):
        assert one["details"]["exact"]
        assert sources_of(one) <= {"draft", "cloud"}
        margin = require_same(wish, one, other)
        if margin is not None:
            margins.append(f"token {parting(one, other)} after {wish.prompt[:24]!r}: {margin:.3g}")
    usages = [answer["details"]["usage"] for answer in made]
    record_figure("tokens", sum(usage["completion_tokens"] for usage in usages))
    record_figure("drafts", sum(usage["drafted_tokens"] for usage in usages))
    record_figure("accepted", sum(usage["accepted_tokens"] for usage in usages))
    record_figure("near ties", sum(usage["near_ties"] for usage in usages))
    record_figure("tau", tau())
    record_figure("divergences", [*margins])


def test_what_a_verified_text_is_compared_with_is_the_full_models(size: Size) -> None:
    """Now and then along the clouds' texts, against transformers."""
    given = asked(count_of(size), mode="cloud")
    for wish, answer in list(zip(given, clouds(count_of(size)), strict=True))[:6]:
        ids = ids_of(answer)
        for at in range(0, len(ids), 12):
            choice = full_choice(wish, ids[:at])
            scale = wish.parameters.get("temperature") or 1.0
            assert ids[at] == choice.token or choice.gap * scale < tau()


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_rounded_states_keep_most_of_a_verified_text(
    codec: str, size: Size, record_figure: Record
) -> None:
    """A measure, not a claim of identity: rounded states may lead to other texts."""
    count = count_of(size)
    made = asyncio.run(together(asked(count, mode="verified", verify="states", codec=codec)))
    pairs = [(ids_of(a), ids_of(b)) for a, b in zip(made, clouds(count), strict=True)]
    agreeing = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False))
    agreement = agreeing / sum(len(other) for _, other in pairs)
    partings = [parting(a, b) for a, b in zip(made, clouds(count), strict=True)]
    record_figure(f"identical texts of {count}", sum(at is None for at in partings))
    record_figure("agreeing tokens", round(agreement, 4))
    assert agreement > 0.5
    assert not any(answer["details"]["exact"] for answer in made)
