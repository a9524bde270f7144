"""The two services together generate what transformers generates with the whole reference model.

Float32: a text may leave the reference's only where the reference itself was undecided, its two
best logits closer than the published tau; every such place is recorded.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from shared.model import load_bundle
from tests.support import worded_model
from tests.support.apps import (
    Answer,
    ask,
    cloud_app,
    edge_client,
    ids_of,
    pair,
    running,
    sources_of,
)
from tests.support.prompts import prompts
from tests.support.reference import (
    SPLIT,
    Continuation,
    bundles,
    generate,
    loaded,
    tau,
    text,
    whole,
)
from tests.support.results import Figure
from tests.support.size import Size

NEW_TOKENS = 64
WHOLE: Mapping[str, Mapping[str, Any]] = {
    "cloud": {"mode": "cloud"},
    "split": {"mode": "split", "codec": "fp32"},
    "collaborative": {"mode": "collaborative", "codec": "fp32", "threshold": 1.0},
}
Record = Callable[[str, Figure], None]


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt with what the full model makes of it; `at_least` tokens come before any end."""

    prompt: str
    at_least: int
    expected: Continuation


@cache
def tasks(count: int) -> list[Task]:
    """Half of the texts may end by themselves; the others go on to the last token."""
    made = []
    given = prompts(text(), count)
    for at_least, part in ((0, given[: count // 2]), (NEW_TOKENS, given[count // 2 :])):
        ids = [text().encode(prompt) for prompt in part]
        expected = generate(whole(), ids, new_tokens=NEW_TOKENS, at_least=at_least)
        made += [Task(p, at_least, e) for p, e in zip(part, expected, strict=True)]
    return made


def count_of(size: Size) -> int:
    return size.pick(short=12, long=50)


async def answers(given: Sequence[Task], parameters: Mapping[str, Any]) -> list[Answer]:
    """Every task answered by real services, all at once."""
    async with pair() as services:
        asked = [
            ask(
                services.edge,
                task.prompt,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=task.at_least,
                **parameters,
            )
            for task in given
        ]
        return await asyncio.gather(*asked)


def divergence(task: Task, answer: Answer, allowed: float) -> str | None:
    """Where an answer leaves the reference within the allowance, if it does.

    Raises:
        AssertionError: it leaves the reference where that was decided.
    """
    ids, expected = ids_of(answer), task.expected
    if ids == expected.ids:
        assert answer["generated_text"] == text().decode(ids)
        return None
    pairs = zip(ids, expected.ids, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(expected.ids)))
    where = f"token {at} after {task.prompt[:30]!r}"
    assert at < len(expected.ids), f"{where}: the text goes on where the reference ended"
    assert expected.margins[at] < allowed, f"{where}: margin {expected.margins[at]:.3g}"
    return f"{where}: margin {expected.margins[at]:.3g}"


@pytest.mark.parametrize("way", WHOLE)
def test_greedy_texts_equal_transformers_generate(
    way: str, size: Size, record_figure: Record
) -> None:
    given = tasks(count_of(size))
    made = asyncio.run(answers(given, WHOLE[way]))
    found = [divergence(task, answer, tau()) for task, answer in zip(given, made, strict=True)]
    record_figure("texts", len(given))
    record_figure("tokens", sum(len(ids_of(answer)) for answer in made))
    record_figure("tau", tau())
    record_figure("divergences", [each for each in found if each is not None])
    assert all(sources_of(answer) == {"cloud"} for answer in made)
    assert all(answer["details"]["exact"] for answer in made)
    assert not any(answer["details"]["degraded"] for answer in made)


def test_half_of_the_texts_end_by_themselves_and_half_are_long(size: Size) -> None:
    given = tasks(count_of(size))
    half = len(given) // 2
    assert all(len(task.expected.ids) == NEW_TOKENS for task in given[half:])
    assert len({task.prompt for task in given}) == len(given)
    assert all(len(text().encode(task.prompt)) == 64 for task in given)


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_codecs_keep_most_tokens(codec: str, size: Size, record_figure: Record) -> None:
    """A measure, not a claim of identity: rounded states may lead to other texts."""
    given = tasks(count_of(size))
    made = asyncio.run(answers(given, {"mode": "split", "codec": codec}))
    pairs = [(ids_of(a), task.expected.ids) for a, task in zip(made, given, strict=True)]
    same = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False))
    agreement = same / sum(len(expected) for _, expected in pairs)
    record_figure(f"identical texts of {len(pairs)}", sum(one == other for one, other in pairs))
    record_figure("agreeing tokens", round(agreement, 4))
    assert agreement > 0.5
    assert not any(answer["details"]["exact"] for answer in made)


def test_threshold_zero_keeps_every_token_at_the_split(size: Size) -> None:
    given = tasks(count_of(size))[: size.pick(short=3, long=12)]
    for answer in asyncio.run(answers(given, {"mode": "collaborative", "threshold": 0.0})):
        assert sources_of(answer) == {f"exit:{SPLIT}"}
        assert answer["details"]["usage"]["cloud_requests"] == 0
        assert not answer["details"]["exact"]


def test_the_allowance_is_far_below_what_decides_a_token(size: Size) -> None:
    """Tau excuses nothing but ties: hardly any margin of the reference is under it."""
    margins = [m for task in tasks(count_of(size)) for m in task.expected.margins]
    assert 0 < tau() < 1e-3
    assert sum(margin < tau() for margin in margins) <= len(margins) / 1000


def test_a_model_with_one_weight_changed_is_noticed() -> None:
    """The comparison fails on a cloud whose last layer is off by a little."""
    broken = load_bundle(bundles().cloud, packed=False)
    last = broken.network.model.layers["11"]
    for parameter in last.parameters():
        parameter.data.mul_(1.05)
    given = tasks(12)

    async def texts() -> list[Answer]:
        async with running(cloud_app(model=broken)) as cloud, edge_client(cloud) as edge:
            asked = [
                ask(edge, task.prompt, max_new_tokens=NEW_TOKENS, mode="cloud")
                for task in given[:6]
            ]
            return await asyncio.gather(*asked)

    made = asyncio.run(texts())
    with pytest.raises(AssertionError, match=r"margin|goes on"):
        _ = [divergence(t, a, tau()) for t, a in zip(given, made, strict=False)]


@pytest.mark.parametrize("way", WHOLE)
def test_greedy_texts_in_float64_equal_transformers_without_allowance(
    way: str, size: Size, record_figure: Record
) -> None:
    count = size.pick(short=8, long=50)
    expected = worded_model.reference(count, NEW_TOKENS)
    folders = worded_model.bundles()
    lower, upper = (loaded(folder, torch.float64) for folder in (folders.edge, folders.cloud))

    async def texts() -> list[list[int]]:
        async with (
            running(cloud_app(folders.cloud, upper)) as cloud,
            edge_client(cloud, folders.edge, lower) as edge,
        ):
            asked = [
                ask(edge, prompt, max_new_tokens=NEW_TOKENS, **WHOLE[way])
                for prompt in worded_model.prompts(count)
            ]
            return [ids_of(answer) for answer in await asyncio.gather(*asked)]

    record_figure("smallest margin", min(m for each in expected for m in each.margins))
    assert asyncio.run(texts()) == [each.ids for each in expected]
