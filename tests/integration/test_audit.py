"""Audits on the reference model: what the edge says of its disagreement is what transformers'
model says, nobody waits or pays for it, and a target is held by it.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from services.edge import audit
from shared.exits.calibration import FILE, Agreement, ExitFit, Logistic, Target
from shared.exits.traces import read_traces
from shared.model import Manifest
from tests.support.apps import PATIENCE, Answer, ask, ids_of, pair
from tests.support.prompts import prompts
from tests.support.reference import EDGE_DEPTH, SPLIT, bundles, text, whole
from tests.support.wishes import Wish, draws

NEW_TOKENS = 32
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "seed": 7}
Seen = dict[str, float]


async def seen(edge: httpx.AsyncClient) -> Seen:
    """Every sample the edge shows, by name and label values, by label."""
    exposed = (await edge.get("/metrics")).text
    return {
        " ".join([each.name, *(each.labels[label] for label in sorted(each.labels))]): each.value
        for family in text_string_to_metric_families(exposed)
        for each in family.samples
    }


def wishes(count: int, **parameters: Any) -> list[Wish]:
    given = {"mode": "collaborative", "codec": "fp32", "max_new_tokens": NEW_TOKENS, **parameters}
    return [Wish(prompt, given) for prompt in prompts(text(), count)]


async def answered(edge: httpx.AsyncClient, asked: Sequence[Wish]) -> list[Answer]:
    """One after another, each when the edge has done with the one before."""
    made = []
    for wish in asked:
        before = await counted(edge)
        made.append(await ask(edge, wish.prompt, **wish.parameters))
        deadline = time.monotonic() + PATIENCE
        while await counted(edge) < before + len(ids_of(made[-1])):
            assert time.monotonic() < deadline, "the text was not taken in"
            await asyncio.sleep(0.01)
    return made


async def counted(edge: httpx.AsyncClient) -> float:
    """Tokens of the texts the edge has taken in, as far as anybody can have asked for them."""
    now = await seen(edge)
    asked = now.get("tandem_tokens_total collaborative cloud", 0.0)
    return now["tandem_judged_tokens_total"] + now["tandem_tail_tokens_total"] + asked


async def written(edge: httpx.AsyncClient, traces: int) -> None:
    """Wait until so many traces were written."""
    deadline = time.monotonic() + PATIENCE
    while (await seen(edge))["tandem_exit_traces_total written"] < traces:
        assert time.monotonic() < deadline, "a trace was not written"
        await asyncio.sleep(0.01)


def chosen(wish: Wish, answer: Answer) -> list[int]:
    """What the full model would choose on the text before each token."""
    prompt, ids = text().encode(wish.prompt), ids_of(answer)
    with torch.inference_mode():
        logits = whole()(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 :]
    return [draws(wish, ids[:at], logits[at]).token for at in range(len(ids))]


def disagreement(asked: Sequence[Wish], made: Sequence[Answer]) -> float:
    """The share of tokens that the full model would not choose on the text before them."""
    pairs = [
        (token, own)
        for wish, answer in zip(asked, made, strict=True)
        for token, own in zip(chosen(wish, answer), ids_of(answer), strict=True)
    ]
    return sum(token != own for token, own in pairs) / len(pairs)


@pytest.mark.parametrize(
    "given", [{"threshold": 0.3}, {"threshold": 0.0}, {}, {"threshold": 0.3, **SAMPLED}]
)
async def test_where_everything_is_audited_the_estimate_is_the_truth(given: dict[str, Any]) -> None:
    asked = wishes(3, **given)
    async with pair(audit_share=1.0) as services:
        made = await answered(services.edge, asked)
        now = await seen(services.edge)
    truth = disagreement(asked, made)
    assert now["tandem_disagreement value"] == pytest.approx(truth, rel=0.01)
    assert now["tandem_disagreement low"] == pytest.approx(truth, rel=0.01)
    assert now["tandem_disagreement high"] == pytest.approx(truth, rel=0.01)
    assert now["tandem_audited_tokens_total"] == now["tandem_tail_tokens_total"] > 0
    assert now["tandem_audit_bytes_total"] > 0


@pytest.mark.parametrize("given", [{}, {"temperature": 1.0, "seed": 7}], ids=["greedy", "sampled"])
async def test_recorded_traces_say_what_the_full_model_chooses(
    given: dict[str, Any], tmp_path: Path
) -> None:
    asked, file = wishes(3, threshold=0.5, **given), tmp_path / "traces.jsonl"
    async with pair(audit_share=1.0, exit_traces=file) as services:
        made = await answered(services.edge, asked)
        await written(services.edge, len(asked))
    for wish, answer, trace in zip(asked, made, read_traces(file), strict=True):
        assert trace.kind == ("sampled" if given else "greedy")
        assert trace.exits_sha256 == Manifest.read(bundles().edge).exits_sha256 is not None
        assert list(trace.whole) == chosen(wish, answer)
        for place, token in enumerate(answer["details"]["tokens"]):
            said = [trace.exits[layer].token[place] for layer in (SPLIT, EDGE_DEPTH)]
            if token["source"] != "cloud":
                layer = int(token["source"].removeprefix("exit:"))
                assert trace.exits[layer].token[place] == token["id"]
            assert said[0] is not None
            assert (said[1] is None) == (token["source"] == f"exit:{SPLIT}")


async def test_nobody_waits_for_an_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()
    judged = audit.Auditing.ask

    async def held_up(auditing: audit.Auditing, traffic: Any) -> int:
        asked.set()
        await let_go.wait()
        return await judged(auditing, traffic)

    monkeypatch.setattr(audit.Auditing, "ask", held_up)
    (wish,) = wishes(1, threshold=0.0)
    async with pair(audit_share=1.0) as services:
        first = await ask(services.edge, wish.prompt, **wish.parameters)
        await asyncio.wait_for(asked.wait(), PATIENCE)
        again = await ask(services.edge, wish.prompt, **wish.parameters)
        let_go.set()
    assert ids_of(first) == ids_of(again)


async def test_nobody_pays_for_an_audit() -> None:
    """Texts and their accounts are the same, but for how uploads happened to be cut."""
    told = ("tokens_by_source", "cloud_requests", "cloud_passes", "completion_tokens")
    asked = wishes(3, threshold=0.3)
    kinds = []
    for share in (0.0, 1.0):
        async with pair(audit_share=share) as services:
            made = await answered(services.edge, asked)
            usages = [answer["details"]["usage"] for answer in made]
            kinds.append(
                [
                    (a["generated_text"], *map(u.get, told))
                    for a, u in zip(made, usages, strict=True)
                ]
            )
            done = (await seen(services.edge))["tandem_cloud_request_duration_seconds_count audit"]
            assert (done > 0) == (share > 0)
    assert kinds[0] == kinds[1]


async def test_without_audits_the_interval_leaves_tails_open() -> None:
    async with pair(audit_share=0.0) as services:
        await answered(services.edge, wishes(2, threshold=0.0))
        now = await seen(services.edge)
    assert (now["tandem_disagreement low"], now["tandem_disagreement high"]) == (0.0, 1.0)
    assert now["tandem_audited_tokens_total"] == 0
    assert now["tandem_audit_bytes_total"] == 0


@pytest.mark.parametrize(
    "given", [{"mode": "verified"}, {"mode": "cloud"}, {"mode": "standalone"}, {"repair": True}]
)
async def test_what_keeps_nothing_for_good_is_not_counted(given: dict[str, Any]) -> None:
    async with pair(audit_share=1.0) as services:
        [wish] = wishes(1)
        await ask(services.edge, wish.prompt, **{**wish.parameters, **given})
        await asyncio.sleep(0.2)
        now = await seen(services.edge)
    assert now["tandem_judged_tokens_total"] + now["tandem_tail_tokens_total"] == 0
    assert now["tandem_audits_total judged"] == 0


async def test_an_audit_that_fails_is_counted_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cloud gets no time to judge: the text is as it was, and the link as good."""
    monkeypatch.setattr(audit, "LONGEST_SECONDS", 1e-6)
    async with pair(audit_share=1.0) as services:
        await answered(services.edge, wishes(1, threshold=0.0))
        now = await seen(services.edge)
        ready = (await services.edge.get("/readyz")).json()
    assert now["tandem_audits_total late"] + now["tandem_audits_total failed"] == 1
    assert now["tandem_audited_tokens_total"] == 0
    assert now["tandem_link_up"] == 1
    assert ready["cloud"] == "reachable"


def promising(folder: Path) -> Path:
    """An edge's bundle whose calibration promises too much: all exits are as good as sure."""
    bundle = folder / "edge"
    shutil.copytree(bundles().edge, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    sure = ExitFit(Logistic((4.0, 0.0, 0.0, 0.0), 0.0), 1000, 0.1, 0.01)
    targets = [(0.01, 0.95), (0.02, 0.6), (0.05, 0.55)]
    Agreement(
        manifest["fingerprint"],
        {SPLIT: sure, EDGE_DEPTH: sure},
        tuple(Target(t, {SPLIT: x, EDGE_DEPTH: x}, 0.1) for t, x in targets),
    ).write(bundle / FILE)
    return bundle


async def test_a_target_that_is_missed_is_asked_for_with_higher_thresholds(tmp_path: Path) -> None:
    bundle = promising(tmp_path)
    thresholds = []
    async with pair(bundle=bundle, audit_share=1.0, max_disagreement=0.02) as services:
        for share in (None, 0.02):
            asked = wishes(4, **({} if share is None else {"max_disagreement": share}))
            thresholds.append((await seen(services.edge))[f"tandem_exit_threshold {SPLIT}"])
            made = await answered(services.edge, asked)
        now = await seen(services.edge)
    assert thresholds[0] == pytest.approx(0.6)
    assert 0.6 < thresholds[1] < now[f"tandem_exit_threshold {SPLIT}"] < 1
    assert now["tandem_disagreement value"] > 0.02
    assert now["tandem_disagreement_target"] == 0.02
    for bound in ("value", "low", "high"):
        promised = now[f"tandem_target_disagreement {bound} 0.02 greedy"]
        assert promised == now[f"tandem_disagreement {bound}"]
    assert now["tandem_target_disagreement target 0.02 greedy"] == 0.02
    assert made


async def test_turns_of_a_conversation_go_by_the_calibration_and_count_for_its_target(
    tmp_path: Path,
) -> None:
    given = {"bundle": promising(tmp_path), "exit_traces": tmp_path / "traces.jsonl"}
    async with pair(**given, audit_share=1.0, max_disagreement=0.02) as services:
        services.edge.headers["x-session-id"] = "talk"
        made = await answered(services.edge, asked := wishes(4))
        await written(services.edge, len(asked))
        now = await seen(services.edge)
    assert now["tandem_target_disagreement value 0.02 greedy"] > 0.02
    assert now["tandem_target_tokens_total 0.02 greedy"] == sum(map(len, map(ids_of, made)))
    assert now[f"tandem_exit_threshold {SPLIT}"] == pytest.approx(0.6)
    assert len({trace.document for trace in read_traces(tmp_path / "traces.jsonl")}) == 1
