"""Every metric that is promised is exposed by real services after a mixed load, and adds up."""

import asyncio
from collections import Counter
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.apps import PATIENCE, ask, edge_client
from tests.support.prompts import prompts
from tests.support.reference import text
from tests.support.services import Services

MODES = ("standalone", "collaborative", "cloud", "split")
BOTH = {
    "tandem_tokens_total": {"source", "mode"},
    "tandem_cloud_requests_total": {"operation", "outcome"},
    "tandem_cloud_request_duration_seconds_count": {"operation"},
    "tandem_cloud_request_duration_seconds_bucket": {"operation", "le"},
    "tandem_uplink_bytes_total": {"codec"},
    "tandem_downlink_bytes_total": set(),
    "tandem_num_requests_running": set(),
    "tandem_num_requests_waiting": set(),
    "tandem_num_requests_waiting_by_priority": {"priority"},
    "tandem_rows_total": {"priority"},
    "tandem_parked_steps_total": set(),
    "tandem_compute_seconds_total": set(),
    "tandem_request_queue_time_seconds_count": {"priority"},
    "tandem_step_rows_count": set(),
    "tandem_kv_cache_bytes": set(),
    "tandem_kv_cache_usage_ratio": set(),
    "tandem_admission_rejections_total": {"reason"},
}
EDGE = BOTH | {
    "tandem_time_to_first_token_seconds_count": {"mode"},
    "tandem_inter_token_latency_seconds_count": {"mode"},
    "tandem_e2e_request_latency_seconds_count": {"mode"},
    "tandem_request_success_total": {"finished_reason"},
    "tandem_request_failures_total": {"reason"},
    "tandem_request_prompt_tokens_count": set(),
    "tandem_request_generation_tokens_count": set(),
    "tandem_degraded_requests_total": set(),
    "tandem_link_up": set(),
}
CLOUD = BOTH | {
    "tandem_contexts": set(),
    "tandem_context_bytes": set(),
    "tandem_context_budget_bytes": set(),
    "tandem_contexts_created_total": set(),
    "tandem_contexts_ended_total": {"reason"},
    "tandem_kv_evictions_total": set(),
    "tandem_rewinds_total": set(),
}
NAMES_OF_SOMEBODY = ("session", "user", "request_id", "prompt")

Seen = dict[str, list[Sample]]


def samples(exposed: str) -> Seen:
    """A service's samples by name, read by Prometheus' own parser."""
    found: Seen = {}
    for family in text_string_to_metric_families(exposed):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def by(seen: Seen, name: str, label: str, **only: str) -> Counter[str]:
    """A metric summed by one of its labels."""
    total: Counter[str] = Counter()
    for sample in seen.get(name, ()):
        if all(sample.labels[key] == value for key, value in only.items()):
            total[sample.labels[label]] += int(sample.value)
    return total


async def test_promised_metrics_are_exposed_and_add_up(services: Services) -> None:
    before = {s.role: samples(s.metrics()) for s in (services.edge, services.cloud)}
    given = prompts(text(), 8)
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        asked = [
            ask(edge, prompt, mode=MODES[n % 4], max_new_tokens=12, codec=("fp16", "int8")[n // 4])
            for n, prompt in enumerate(given)
        ]
        answers: list[dict[str, Any]] = await asyncio.gather(*asked)
        refused = {"inputs": "Once", "parameters": {"max_new_tokens": 5000}}
        assert (await edge.post("/generate", json=refused)).status_code == 422
    after = {s.role: samples(s.metrics()) for s in (services.edge, services.cloud)}

    for role, promised in (("edge", EDGE), ("cloud", CLOUD)):
        for name, labels in promised.items():
            assert after[role].get(name), f"{role} does not expose {name}"
            assert {*after[role][name][0].labels} == labels, name
        assert {"fingerprint", "depth", "compute_format", "modes"} <= {
            *after[role]["tandem_build_info"][0].labels
        }
        for sample in (each for group in after[role].values() for each in group):
            assert not set(NAMES_OF_SOMEBODY) & {*sample.labels}

    details = [answer["details"] for answer in answers]

    def grown(role: str, name: str, label: str, **only: str) -> Counter[str]:
        return by(after[role], name, label, **only) - by(before[role], name, label, **only)

    spent = sum((Counter(each["usage"]["tokens_by_source"]) for each in details), Counter[str]())
    assert grown("edge", "tandem_tokens_total", "source") == spent
    for mode in MODES:
        made = [each["generated_tokens"] for each in details if each["mode"] == mode]
        assert grown("edge", "tandem_tokens_total", "mode")[mode] == sum(made)
        first = grown("edge", "tandem_time_to_first_token_seconds_count", "mode")
        between = grown("edge", "tandem_inter_token_latency_seconds_count", "mode")
        assert (first[mode], between[mode]) == (len(made), sum(made) - len(made))
    assert grown("edge", "tandem_e2e_request_latency_seconds_count", "mode") == Counter(
        each["mode"] for each in details
    )
    assert grown("edge", "tandem_request_success_total", "finished_reason") == Counter(
        each["finish_reason"] for each in details
    )
    assert grown("edge", "tandem_request_failures_total", "reason") == {"invalid": 1}
    assert grown("cloud", "tandem_tokens_total", "source")["cloud"] >= spent["cloud"]

    needs = sum(each["usage"]["cloud_requests"] for each in details)
    # The edge may hang up on a stream whose last token it has; for the cloud that one is cancelled.
    for operations in (
        grown("edge", "tandem_cloud_requests_total", "operation", outcome="ok"),
        grown("cloud", "tandem_cloud_requests_total", "operation"),
    ):
        assert operations["complete"] + operations["stream"] == needs
    up = sum(each["usage"]["bytes_up"] for each in details)
    assert grown("cloud", "tandem_uplink_bytes_total", "codec").total() == up
    codecs = grown("edge", "tandem_uplink_bytes_total", "codec")
    assert codecs.total() == up
    assert {"fp16", "int8"} <= {*codecs}


async def test_what_requests_and_sessions_came_to_is_counted_once(services: Services) -> None:
    before = {s.role: samples(s.metrics()) for s in (services.edge, services.cloud)}
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        answers = [await ask(edge, "Once upon", mode=mode, max_new_tokens=8) for mode in MODES]
    after = {s.role: samples(s.metrics()) for s in (services.edge, services.cloud)}
    details = [answer["details"] for answer in answers]

    def total(role: str, name: str) -> float:
        now, then = (sum(s.value for s in each[role][name]) for each in (after, before))
        return now - then

    spent = sum(each["generated_tokens"] for each in details)
    assert total("edge", "tandem_request_prompt_tokens_count") == len(answers)
    prompted = total("edge", "tandem_prompt_tokens_total")
    assert prompted == total("edge", "tandem_request_prompt_tokens_sum") > len(answers)
    assert total("edge", "tandem_request_generation_tokens_sum") == spent
    assert total("edge", "tandem_degraded_requests_total") == 0
    # Every session but the standalone one was opened once, and closed once or is about to be.
    opened = total("cloud", "tandem_contexts_created_total")
    assert opened == sum(each["mode"] != "standalone" for each in details)
    ends = [by(each["cloud"], "tandem_contexts_ended_total", "reason") for each in (after, before)]
    assert (ends[0] - ends[1])["closed"] <= opened
    for role in ("edge", "cloud"):
        assert total(role, "tandem_request_queue_time_seconds_count") > len(answers)
        assert 0 <= after[role]["tandem_kv_cache_usage_ratio"][0].value < 1


async def test_what_the_full_model_looked_at_is_counted_with_what_it_disagreed_with(
    services: Services,
) -> None:
    before = samples(services.cloud.metrics())
    kept = 0
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        for prompt in prompts(text(), 4):
            answer = await ask(edge, prompt, mode="collaborative", max_new_tokens=24)
            sources = Counter(answer["details"]["usage"]["tokens_by_source"])
            kept += sources.total() - sources["cloud"]
    after = samples(services.cloud.metrics())
    looked_at, disagreed = (
        after[name][0].value - before[name][0].value
        for name in ("tandem_judged_tokens_total", "tandem_disagreed_tokens_total")
    )
    # Those kept after a session's last question are not seen.
    assert 0 < looked_at <= kept
    assert 0 <= disagreed <= looked_at
    assert after["tandem_numeric_tau"][0].value > 0


async def test_a_request_that_goes_on_without_the_cloud_is_counted_once() -> None:
    async with edge_client("http://127.0.0.1:9") as edge:
        for mode in ("collaborative", "standalone"):
            answer = await ask(edge, "Once upon", mode=mode, max_new_tokens=8, threshold=1.0)
            assert answer["details"]["degraded"] == (mode == "collaborative")
        seen = samples((await edge.get("/metrics")).text)
    assert seen["tandem_degraded_requests_total"][0].value == 1
    fallback = by(seen, "tandem_tokens_total", "source", mode="collaborative")["fallback"]
    assert fallback > 0
