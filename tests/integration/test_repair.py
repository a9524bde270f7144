"""`repair` on the reference model: texts nearer to the full model's, the same streamed or not, and
an account of what was replaced.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
import torch

from tests.support.apps import Answer, Pair, ask, edge_client, ids_of, pair, sources_of
from tests.support.prompts import prompts
from tests.support.reference import EDGE_DEPTH, SPLIT, text, whole
from tests.support.results import Figure
from tests.support.size import Size
from tests.support.sse import all_events
from tests.support.wishes import Wish, draws

NEW_TOKENS = 48
EXITS = {f"exit:{SPLIT}", f"exit:{EDGE_DEPTH}"}
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 7}
# Thresholds of both exits; none takes the model's own.
SURE_OF: dict[str, dict[str, Any]] = {
    "little": {"threshold": 0.1},
    "something": {"threshold": 0.3},
    "what was calibrated": {},
    "something, sampled": {"threshold": 0.3, **SAMPLED},
}


def wishes(count: int, **parameters: Any) -> list[Wish]:
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    given = {"mode": "collaborative", "codec": "fp32", **lengths, **parameters}
    return [Wish(prompt, given) for prompt in prompts(text(), count)]


async def answered(services: Pair, asked: Sequence[Wish]) -> list[Answer]:
    made = [ask(services.edge, wish.prompt, **wish.parameters) for wish in asked]
    return await asyncio.gather(*made)


def agreement(asked: Sequence[Wish], made: Sequence[Answer]) -> float:
    """The share of tokens that the full model would choose on the text before them."""
    same = []
    for wish, ids in zip(asked, map(ids_of, made), strict=True):
        prompt = text().encode(wish.prompt)
        with torch.inference_mode():
            logits = whole()(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 :]
        same += [draws(wish, ids[:at], logits[at]).token == ids[at] for at in range(len(ids))]
    return sum(same) / len(same)


@pytest.mark.parametrize("sure_of", SURE_OF)
async def test_repaired_texts_are_nearer_to_the_full_models(
    sure_of: str, size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    count = size.pick(short=4, long=24)
    plain = wishes(count, **SURE_OF[sure_of])
    repaired = wishes(count, repair=True, **SURE_OF[sure_of])
    async with pair() as services:
        before, after = await answered(services, plain), await answered(services, repaired)
        metrics = (await services.edge.get("/metrics")).text
    usages = [answer["details"]["usage"] for answer in after]
    replaced = sum(usage["repaired_tokens"] for usage in usages)
    without, with_repair = agreement(plain, before), agreement(repaired, after)
    record_figure("agreement without", round(without, 4))
    record_figure("agreement with", round(with_repair, 4))
    record_figure("replaced tokens", replaced)
    for name, made in (("without", before), ("with", after)):
        asked = sum(answer["details"]["usage"]["cloud_requests"] for answer in made)
        record_figure(f"cloud requests {name}", asked)
    assert with_repair > without
    assert replaced > 0
    assert f"\ntandem_repaired_tokens_total {float(replaced)}\n" in metrics
    for answer, usage in zip(after, usages, strict=True):
        assert len(ids_of(answer)) == answer["details"]["generated_tokens"] == NEW_TOKENS
        assert usage["repaired_tokens"] <= usage["tokens_by_source"]["cloud"]
        assert sources_of(answer) <= {"cloud", *EXITS}
        assert not answer["details"]["degraded"]
    assert all(answer["details"]["usage"]["repaired_tokens"] == 0 for answer in before)


@pytest.mark.parametrize("sure_of", SURE_OF)
async def test_a_repaired_text_is_the_same_streamed_or_not(sure_of: str) -> None:
    async with pair() as services:
        for wish in wishes(1, repair=True, details=True, **SURE_OF[sure_of]):
            events = await all_events(services.edge, wish.prompt, **wish.parameters)
            at_once = await ask(services.edge, wish.prompt, **wish.parameters)
            last = events[-1]
            assert [event["token"] for event in events] == at_once["details"]["tokens"]
            assert "".join(e["token"]["text"] for e in events) == at_once["generated_text"]
            assert (last["generated_text"], last["details"]["usage"]["repaired_tokens"]) == (
                at_once["generated_text"],
                at_once["details"]["usage"]["repaired_tokens"],
            )


@pytest.mark.parametrize("given", [{"threshold": 0.0}, {"threshold": 0.3}, {}])
async def test_a_stop_string_ends_a_repaired_text_where_it_is_complete(
    given: dict[str, float],
) -> None:
    async with pair() as services:
        [wish] = wishes(1, repair=True, **given)
        unstopped = (await ask(services.edge, wish.prompt, **wish.parameters))["generated_text"]
        parameters = {**wish.parameters, "stop": ["never in the text", unstopped[20:25]]}
        stopped = await ask(services.edge, wish.prompt, **parameters)
        events = await all_events(services.edge, wish.prompt, **{**parameters, "details": True})
    assert stopped["generated_text"] == unstopped[: unstopped.index(unstopped[20:25])]
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert [event["token"] for event in events] == stopped["details"]["tokens"]


async def test_without_an_answer_of_the_cloud_nothing_is_replaced() -> None:
    """Threshold 0 asks for no token: what is held is given out as it was kept."""
    async with pair() as services:
        [plain], [repaired] = wishes(1, threshold=0.0), wishes(1, threshold=0.0, repair=True)
        before, after = await answered(services, [plain, repaired])
    assert ids_of(before) == ids_of(after)
    assert sources_of(after) == {f"exit:{SPLIT}"}
    assert after["details"]["usage"]["cloud_requests"] == 0
    assert after["details"]["usage"]["repaired_tokens"] == 0


async def test_an_end_of_text_that_was_held_ends_it() -> None:
    """Every token of a text that ends by itself is given out, the last ones unjudged."""
    given = {"mode": "collaborative", "threshold": 0.2, "repair": True, "max_new_tokens": 64}
    async with pair() as services:
        made = await answered(services, [Wish(prompt, given) for prompt in prompts(text(), 6)])
    for answer in made:
        ids, ended = ids_of(answer), answer["details"]["finish_reason"] == "eos_token"
        assert ended == (ids[-1] in text().eos_ids)
        assert ended or len(ids) == 64
        assert not set(ids[:-1]) & set(text().eos_ids)
    assert any(answer["details"]["finish_reason"] == "eos_token" for answer in made)


async def test_an_edge_without_a_cloud_refuses_it() -> None:
    async with edge_client("") as edge:
        for mode in ("collaborative", "standalone"):
            body = {"inputs": "Once", "parameters": {"mode": mode, "repair": True}}
            response: httpx.Response = await edge.post("/generate", json=body)
            assert response.status_code == 422
            field = "mode" if mode == "collaborative" else "repair"
            assert response.json()["field"] == f"parameters.{field}"
