"""Mode `verified` makes the text of mode `cloud`, token by token: tiny models of every family in
float64, without allowance.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support.apps import Answer, ids_of, sources_of
from tests.support.results import Figure
from tests.support.size import Size
from tests.support.tiny_models import NAMES
from tests.support.verified_texts import answers, clouds, wishes
from tests.support.worded_model import SPLIT

WAYS: Mapping[str, Mapping[str, Any]] = {
    "states": {"verify": "states", "codec": "fp32"},
    "ids": {"verify": "ids"},
    "states to half a cloud": {"verify": "states", "codec": "fp32"},
}
# Prompts and new tokens of each.
SHORT, LONG = (6, 24), (200, 128)
Record = Callable[[str, Figure], None]


def require_equal(one: Answer, other: Answer) -> None:
    assert ids_of(one) == ids_of(other)
    assert one["generated_text"] == other["generated_text"]
    reasons = [answer["details"]["finish_reason"] for answer in (one, other)]
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", NAMES)
def test_a_verified_text_is_the_clouds(
    family: str, way: str, size: Size, record_figure: Record
) -> None:
    count, new_tokens = size.pick(short=SHORT, long=LONG)
    first = NAMES.index(family)
    given = wishes(count, new_tokens, first=first)
    asked = [{"mode": "verified", **WAYS[way], **wish.parameters} for wish in given]
    start = SPLIT if way == "states to half a cloud" else 0
    made = asyncio.run(answers(family, given, asked, cloud_start=start))
    for one, other in zip(made, clouds(family, count, new_tokens, first), strict=True):
        require_equal(one, other)
        assert sources_of(one) <= {"draft", "cloud"}
        assert one["details"]["exact"]
        assert not one["details"]["degraded"]
    usages = [answer["details"]["usage"] for answer in made]
    tokens, drafted, accepted = (
        sum(usage[name] for usage in usages)
        for name in ("completion_tokens", "drafted_tokens", "accepted_tokens")
    )
    reasons = Counter(answer["details"]["finish_reason"] for answer in made)
    record_figure("tokens", tokens)
    record_figure("drafts", drafted)
    record_figure("accepted", accepted)
    record_figure("ends", [f"{reason} {times}" for reason, times in sorted(reasons.items())])
    assert 0 < accepted < drafted
    assert accepted < tokens


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_sessions_served_together_make_the_texts_they_make_alone(family: str, size: Size) -> None:
    """Eight at once, of every mode: no session's rows, nodes or chances leak into another's."""
    modes: list[Mapping[str, Any]] = [
        {"mode": "verified", **WAYS["states"]},
        {"mode": "split", "codec": "fp32"},
        {"mode": "verified", **WAYS["ids"]},
        {"mode": "collaborative", "codec": "fp32", "threshold": 0.3},
        {"mode": "verified", "verify": "states", "codec": "fp16"},
        {"mode": "cloud"},
        {"mode": "standalone"},
    ]
    given = wishes(*size.pick(short=(16, 16), long=(64, 96)))
    asked = [{**modes[n % len(modes)], **wish.parameters} for n, wish in enumerate(given)]
    alone = asyncio.run(answers(family, given, asked, together=1))
    for _ in range(size.pick(short=1, long=3)):
        beside = asyncio.run(answers(family, given, asked, together=8))
        for one, other in zip(alone, beside, strict=True):
            require_equal(one, other)


def test_a_text_of_another_seed_is_noticed() -> None:
    """The comparison tells texts apart that were decided otherwise."""
    given = wishes(4, 16, first=1)
    made = clouds("llama", 4, 16, 1)
    other = [{"mode": "cloud", **wish.parameters, "seed": 99} for wish in given]
    again = asyncio.run(answers("llama", given, other))
    sampled = next(n for n, wish in enumerate(given) if "temperature" in wish.parameters)
    with pytest.raises(AssertionError):
        require_equal(made[sampled], again[sampled])
