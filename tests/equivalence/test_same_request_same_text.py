"""One request has one text: whichever machine samples it, however often it is asked, and whoever is
served beside it.

Where two texts part, the full model's own choice there must have been a near tie: its lead over
the next best under the published tau.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, get_args

import pytest

from services.edge.policy import Mode
from tests.support.apps import Answer, ask, ids_of, pair, sources_of
from tests.support.prompts import prompts
from tests.support.reference import EDGE_DEPTH, SPLIT, bundles, loaded, tau, text
from tests.support.size import Size
from tests.support.wishes import Wish, full_choice, one_by_one, require_same, together

TEMPERATURE, TOP_P = 0.8, 0.95
NEW_TOKENS = 32
WHOLE: Mapping[str, Any] = {"codec": "fp32", "threshold": 1.0}


def sampled(prompt: str, mode: Mode, seed: int) -> Wish:
    drawn = {"temperature": TEMPERATURE, "top_p": TOP_P, "seed": seed}
    exact = WHOLE if mode == "collaborative" else {"codec": "fp32"}
    return Wish(prompt, {"mode": mode, "max_new_tokens": NEW_TOKENS, **drawn, **exact})


def test_sampled_texts_are_the_same_whichever_side_chooses(size: Size) -> None:
    given = prompts(text(), size.pick(short=4, long=50))
    wishes = {
        mode: [sampled(prompt, mode, seed) for seed, prompt in enumerate(given)]
        for mode in ("cloud", "split", "collaborative")
    }
    made = {mode: asyncio.run(together(wanted)) for mode, wanted in wishes.items()}
    for mode in ("split", "collaborative"):
        for wish, ours, clouds in zip(wishes[mode], made[mode], made["cloud"], strict=True):
            assert sources_of(ours) == {"cloud"}
            require_same(wish, ours, clouds)
    for wish, answer in list(zip(wishes["cloud"], made["cloud"], strict=True))[:3]:
        ids = ids_of(answer)
        for at in range(0, len(ids), 6):
            choice = full_choice(wish, ids[:at])
            assert ids[at] == choice.token or choice.gap * TEMPERATURE < tau()


def test_a_seed_is_a_text(size: Size) -> None:
    """The same seed twice gives the same text, and other seeds others."""
    prompt = prompts(text(), 1)[0]
    seeds = [*range(size.pick(short=4, long=20))]
    wishes = [sampled(prompt, "split", seed) for seed in (*seeds, *seeds)]
    made = asyncio.run(together(wishes))
    for wish, first, second in zip(wishes, made[: len(seeds)], made[len(seeds) :], strict=False):
        require_same(wish, first, second)
    assert len({tuple(ids_of(answer)) for answer in made[: len(seeds)]}) == len(seeds)


def test_a_request_without_seed_is_told_the_one_it_got() -> None:
    prompt = prompts(text(), 1)[0]
    wish = Wish(prompt, {"mode": "cloud", "temperature": TEMPERATURE, "max_new_tokens": 16})

    async def twice() -> list[Answer]:
        async with pair() as services:
            drawn = [await ask(services.edge, prompt, **wish.parameters) for _ in range(2)]
            again = {**wish.parameters, "seed": drawn[0]["details"]["seed"]}
            return [*drawn, await ask(services.edge, prompt, **again)]

    first, second, again = asyncio.run(twice())
    assert first["details"]["seed"] != second["details"]["seed"]
    drawn = Wish(prompt, {**wish.parameters, "seed": first["details"]["seed"]})
    require_same(drawn, first, again)


def mixed(count: int) -> list[Wish]:
    """Requests of every mode, greedy and sampled, of several thresholds and lengths."""
    modes: tuple[Mode, ...] = get_args(Mode)
    given = prompts(text(), count)
    thresholds = {layer: info.threshold for layer, info in loaded(bundles().edge).exits.items()}
    assert set(thresholds) == {SPLIT, EDGE_DEPTH}
    return [
        Wish(
            prompt[: len(prompt) - 7 * (n % 5)],
            {
                "mode": modes[n % len(modes)],
                "codec": "fp32",
                "max_new_tokens": 8 + 6 * (n % 3),
                "threshold": (None, 0.0, 0.3, 1.0)[n // len(modes) % 4],
                "temperature": (0.0, TEMPERATURE)[n // 16 % 2],
                "seed": n,
            },
        )
        for n, prompt in enumerate(given)
    ]


def test_requests_served_together_get_the_texts_they_get_alone(size: Size) -> None:
    wishes = mixed(32)
    alone = asyncio.run(one_by_one(wishes))
    assert {source.split(":")[0] for answer in alone for source in sources_of(answer)} == {
        "exit",
        "cloud",
        "draft",
    }
    for _ in range(size.pick(short=1, long=5)):
        beside = asyncio.run(together(wishes))
        for wish, one, other in zip(wishes, alone, beside, strict=True):
            require_same(wish, one, other)
            # Which tokens of a verified text the edge had drafted in time is no promise.
            if ids_of(one) == ids_of(other) and wish.parameters["mode"] != "verified":
                tokens = (answer["details"]["tokens"] for answer in (one, other))
                first, second = ([token["source"] for token in each] for each in tokens)
                assert first == second, wish


def test_a_text_of_another_seed_or_threshold_is_noticed() -> None:
    """The comparison tells texts apart that were decided otherwise."""
    prompt = prompts(text(), 1)[0]
    kept = {"mode": "collaborative", "seed": 0, "max_new_tokens": NEW_TOKENS}
    for wish, other in (
        (sampled(prompt, "cloud", 1), sampled(prompt, "cloud", 2)),
        (Wish(prompt, kept | {"threshold": 0.0}), Wish(prompt, kept | {"threshold": 1.0})),
    ):
        one, two = asyncio.run(together([wish, other]))
        with pytest.raises(AssertionError, match="decided by"):
            require_same(wish, one, two)
