"""A target of disagreement and calibrated confidence through the services, by a made-up
calibration of the reference model's exits.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.exits.calibration import FILE, Agreement, file_of, read_agreement
from shared.model import Manifest
from shared.model.exits import exits_sha256
from tests.support.agreements import made_up
from tests.support.apps import (
    Answer,
    Pair,
    ask,
    client_of,
    cloud_app,
    edge_client,
    ids_of,
    running,
    until_cloud_is,
)
from tests.support.reference import EDGE_DEPTH, MODEL, SPLIT, bundles, loaded, partition
from tests.support.wishes import Wish, exit_choices

PROMPT = "The old man looked at the sea and"
LENGTH = {"max_new_tokens": 24, "min_new_tokens": 24}
EXITS = [SPLIT, EDGE_DEPTH]


def agreement() -> Agreement:
    return made_up(Manifest.read(bundles().edge).fingerprint, EXITS, {0.02: 0.9, 0.1: 0.35})


@pytest.fixture
def uncalibrated(tmp_path: Path) -> Path:
    """The edge's bundle without a calibration."""
    for file in bundles().edge.iterdir():
        if not file.name.startswith("agreement"):
            os.symlink(file, tmp_path / file.name)
    return tmp_path


@pytest.fixture
def calibrated(uncalibrated: Path) -> Path:
    """The edge's bundle with a made-up calibration in place of its own."""
    agreement().write(uncalibrated / FILE)
    drawn = made_up(agreement().model_fingerprint, EXITS, {0.1: 0.55})
    replace(drawn, text="sampled").write(uncalibrated / file_of(text="sampled"))
    return uncalibrated


@pytest.fixture
async def served(calibrated: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(cloud_app()))
        model = loaded(bundles().edge)
        edge = await stack.enter_async_context(edge_client(app, calibrated, model))
        cloud = await stack.enter_async_context(client_of(app))
        await until_cloud_is("reachable", edge)
        yield Pair(edge, cloud)


def kept(answer: Answer) -> list[dict[str, Any]]:
    return [t for t in answer["details"]["tokens"] if t["source"].startswith("exit:")]


def thresholds_hold(answer: Answer, threshold: float) -> None:
    assert all(token["confidence"] > threshold for token in kept(answer)), answer


async def test_a_target_keeps_by_its_calibrated_thresholds(served: Pair) -> None:
    answers = {
        most: await ask(served.edge, PROMPT, mode="collaborative", max_disagreement=most, **LENGTH)
        for most in (0.01, 0.02, 0.5)
    }
    counts = [len(kept(answer)) for answer in answers.values()]
    assert counts[0] == 0, "below the smallest target the cloud decides all"
    assert counts[0] <= counts[1] < counts[2]
    thresholds_hold(answers[0.02], 0.9)
    thresholds_hold(answers[0.5], 0.35)


async def test_drawn_tokens_are_kept_by_a_calibration_of_their_own(served: Pair) -> None:
    wish = {"mode": "collaborative", "max_disagreement": 0.1, "seed": 5, **LENGTH}
    cool, hot = (wish | {"temperature": each} for each in (0.8, 1.5))
    penalised = wish | {"repetition_penalty": 1.2}
    answer = await ask(served.edge, PROMPT, **cool)
    assert kept(answer)
    thresholds_hold(answer, 0.55)
    for parameters in (hot, penalised):
        body = {"inputs": PROMPT, "parameters": parameters}
        refused = await served.edge.post("/generate", json=body)
        assert refused.status_code == 422
        assert refused.json()["field"] == "parameters.max_disagreement"
        assert "at temperatures over 1 or with a repetition_penalty" in refused.json()["error"]


async def test_confidence_is_the_calibrated_chance(served: Pair) -> None:
    parameters = {"mode": "collaborative", "threshold": 0.2, **LENGTH}
    answer = await ask(served.edge, PROMPT, **parameters)
    fits, ids, compared = agreement().exits, ids_of(answer), 0
    for place, token in enumerate(answer["details"]["tokens"]):
        if not token["source"].startswith("exit:"):
            assert token["confidence"] is None
            continue
        layer = int(token["source"].removeprefix("exit:"))
        top = exit_choices(Wish(PROMPT, parameters), ids[:place])[layer].confidence
        assert top > 0.2
        # Of a distribution with this top and margin of at most as much: within the logistic's span.
        low = fits[layer].logistic
        assert token["confidence"] != pytest.approx(top, abs=1e-6)
        assert 0 < token["confidence"] < 1 / (1 + 2.718281 ** -(5.5 * top + low.bias)) + 1e-6
        compared += 1
    assert compared > 3


async def test_without_a_calibration_confidence_is_the_top_probability(uncalibrated: Path) -> None:
    parameters = {"mode": "standalone", **LENGTH}
    async with edge_client("", uncalibrated, loaded(bundles().edge)) as edge:
        answer = await ask(edge, PROMPT, **parameters)
        refused = await edge.post(
            "/generate", json={"inputs": PROMPT, "parameters": {"max_disagreement": 0.02}}
        )
    assert refused.status_code == 422
    ids = ids_of(answer)
    for place, token in enumerate(answer["details"]["tokens"][:6]):
        layer = int(token["source"].removeprefix("exit:"))
        top = exit_choices(Wish(PROMPT, parameters), ids[:place])[layer].confidence
        assert token["confidence"] == pytest.approx(top, abs=1e-4)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"max_disagreement": 0.02, "threshold": 0.5}, "goes without parameters.threshold"),
        ({"max_disagreement": 0.02, "mode": "verified"}, "allowed: mode collaborative"),
        ({"max_disagreement": 0}, "above 0 to 1"),
        ({"max_disagreement": 1.5}, "above 0 to 1"),
        ({"max_disagreement": True}, "above 0 to 1"),
    ],
)
async def test_a_target_that_cannot_be_met_is_refused(
    served: Pair, wishes: dict[str, Any], told: str
) -> None:
    body = {"inputs": PROMPT, "parameters": wishes}
    refused = await served.edge.post("/generate", json=body)
    assert refused.status_code == 422
    assert "parameters.max_disagreement" in refused.text
    assert told in refused.text


async def test_a_bundle_without_targets_says_so(uncalibrated: Path) -> None:
    model = loaded(bundles().edge)
    async with running(cloud_app()) as app, edge_client(app, uncalibrated, model) as edge:
        body = {"inputs": PROMPT, "parameters": {"max_disagreement": 0.02}}
        refused = await edge.post("/generate", json=body)
    assert refused.status_code == 422
    assert "no calibrated targets" in refused.text


async def test_the_deployments_target_is_that_of_requests_that_say_nothing(
    calibrated: Path,
) -> None:
    async with running(cloud_app()) as app:
        model = loaded(bundles().edge)
        async with edge_client(app, calibrated, model, max_disagreement=0.1) as edge:
            await until_cloud_is("reachable", edge)
            usual = await ask(edge, PROMPT, **LENGTH)
            named = await ask(edge, PROMPT, max_disagreement=0.1, **LENGTH)
            other = await ask(edge, PROMPT, threshold=1.0, **LENGTH)
    assert ids_of(usual) == ids_of(named)
    thresholds_hold(usual, 0.35)
    assert kept(usual)
    assert not kept(other)


def test_with_a_drafter_the_bundle_has_the_calibration_made_with_it(tmp_path: Path) -> None:
    for file in MODEL.iterdir():
        if not file.name.startswith("agreement"):
            os.symlink(file, tmp_path / file.name)
    of_drafter = exits_sha256(MODEL, (SPLIT, EDGE_DEPTH))
    with_drafter = replace(agreement(), exits_sha256=of_drafter)
    with_drafter.write(tmp_path / file_of((SPLIT, EDGE_DEPTH)))
    made_up(with_drafter.model_fingerprint, EXITS, {0.5: 0.1}).write(tmp_path / FILE)
    edge = partition(tmp_path, SPLIT, EDGE_DEPTH).edge
    assert Manifest.read(edge).drafter is not None
    assert read_agreement(edge / FILE) == with_drafter
