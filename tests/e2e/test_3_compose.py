"""The compose stack, for real: every mode, four edges under load, a lost cloud, a clean end.

The tests run in the order they stand in; the stack is one.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from cli.processes import free_ports
from tests.support.compose import Compose, docker, service_of
from tests.support.offered import offload_window, tokens_counted, tokens_told
from tests.support.prometheus import Prometheus, eventually

EDGES = ("edge", "edge-2", "edge-3", "edge-4")
# Grafana is left out: its image is the only one the stack does not need to be tested.
SERVICES = ("cloud", *EDGES, "redis", "prometheus")
PROMPT = "Once upon a time there was"


@pytest.fixture(scope="module")
def stack(images: tuple[str, ...]) -> Iterator[Compose]:
    names = ("EDGE_PORT", "EDGE_2_PORT", "EDGE_3_PORT", "EDGE_4_PORT", "PROMETHEUS_PORT")
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    compose = Compose("tandem-e2e", {**ports, "COMPOSE_PROFILES": "fleet,load"})
    compose.run("down", "--volumes", "--remove-orphans")
    try:
        compose.run("up", "--detach", "--no-build", *SERVICES)
        eventually(
            lambda: [health for _, health in _healths(compose)],
            lambda healths: set(healths) == {"healthy"},
            seconds=120,
        )
        yield compose
    finally:
        compose.run("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def edge(stack: Compose) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{stack.variables['EDGE_PORT']}"
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        _reachable(client)
        yield client


@pytest.fixture(scope="module")
def prometheus(stack: Compose) -> Prometheus:
    return Prometheus(f"http://127.0.0.1:{stack.variables['PROMETHEUS_PORT']}")


def _healths(compose: Compose) -> list[tuple[str, str]]:
    """(service, health) of every container that has a health check."""
    return [
        (service_of(container), container["State"]["Health"]["Status"])
        for container in compose.containers()
        if "Health" in container["State"]
    ]


def _reachable(client: httpx.Client) -> None:
    eventually(
        lambda: client.get("/readyz").json()["cloud"],
        lambda cloud: cloud == "reachable",
        seconds=30,
    )


def _generate(client: httpx.Client, **parameters: object) -> dict[str, Any]:
    asked = {"max_new_tokens": 24, "details": True, **parameters}
    answer = client.post("/generate", json={"inputs": PROMPT, "parameters": asked})
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def _sources(answer: dict[str, Any]) -> set[str]:
    return {token["source"] for token in answer["details"]["tokens"]}


def test_every_container_is_confined(stack: Compose) -> None:
    for container in stack.containers():
        name = service_of(container)
        assert container["HostConfig"]["ReadonlyRootfs"], name
        assert container["HostConfig"]["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in container["HostConfig"]["SecurityOpt"], name


def test_only_what_users_reach_is_published_and_on_loopback(stack: Compose) -> None:
    published = {
        service_of(container): [
            binding["HostIp"]
            for bindings in container["NetworkSettings"]["Ports"].values()
            for binding in bindings or ()
        ]
        for container in stack.containers()
    }
    assert {name for name, hosts in published.items() if hosts} == {*EDGES, "prometheus"}
    assert {host for hosts in published.values() for host in hosts} == {"127.0.0.1"}


def test_every_mode_answers_and_the_modes_agree(edge: httpx.Client) -> None:
    whole = _generate(edge, mode="cloud")
    assert _sources(whole) == {"cloud"}
    split = _generate(edge, mode="split", codec="fp32")
    unsure = _generate(edge, mode="collaborative", threshold=1, codec="fp32")
    assert whole["generated_text"] == split["generated_text"] == unsure["generated_text"]
    alone = _generate(edge, mode="standalone")
    assert _sources(alone) <= {"exit:3", "exit:6"}
    assert not _generate(edge, mode="collaborative")["details"]["degraded"]


def test_a_stream_ends_with_the_text_a_plain_answer_has(edge: httpx.Client) -> None:
    asked = {"max_new_tokens": 24, "mode": "cloud"}
    body = {"inputs": PROMPT, "parameters": asked, "stream": True}
    with edge.stream("POST", "/generate", json=body) as answer:
        events = [
            json.loads(line.removeprefix("data:"))
            for line in answer.iter_lines()
            if line.startswith("data:")
        ]
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"]
    assert events[-1]["generated_text"] == _generate(edge, mode="cloud")["generated_text"]


def test_prometheus_sees_every_service(stack: Compose, prometheus: Prometheus) -> None:
    up = eventually(
        prometheus.targets_up,
        lambda targets: len(targets) == 2 + len(EDGES) and all(targets.values()),
        seconds=60,
    )
    assert len(prometheus.values('up{job="edge"}', "edge")) == len(EDGES), up
    problems = [
        (rule["name"], rule["lastError"])
        for group in prometheus.api("rules")["groups"]
        for rule in group["rules"]
        if rule.get("lastError")
    ]
    assert not problems


def test_prometheus_counts_the_tokens_the_load_generator_counts(
    stack: Compose, prometheus: Prometheus, record_figure: Callable[[str, object], None]
) -> None:
    before = eventually(
        lambda: tokens_counted(prometheus, EDGES),
        lambda counted: counted == tokens_told(stack, EDGES),
        seconds=30,
    )
    edges = [part for name in EDGES for part in ("--edge", f"{name}=http://{name}:8000")]
    told = stack.run(
        "run", "--rm", "load", *edges, "--users", "8", "--duration", "40", "--max-new-tokens", "32",
        "--mode", "collaborative=3", "--mode", "cloud=1", "--json", "-",
    )  # fmt: skip
    report = json.loads(told)
    assert not report["total"]["errors"]
    offered = {
        name: (
            summary["tokens_by_source"].get("cloud", 0),
            sum(summary["tokens_by_source"].values()),
        )
        for name, summary in report["edges"].items()
    }
    assert set(offered) == set(EDGES)

    def seen() -> dict[str, tuple[int, int]]:
        now = tokens_counted(prometheus, EDGES)
        return {n: (now[n][0] - before[n][0], now[n][1] - before[n][1]) for n in EDGES}

    eventually(seen, lambda counted: counted == offered, seconds=45)
    ruled, window = (
        prometheus.values("tandem:offload_ratio:rate5m", "edge"),
        offload_window(prometheus, EDGES),
    )
    for name in EDGES:
        record_figure(f"offload ratio of {name}: last five minutes", round(window[name], 3))
        record_figure(f"offload ratio of {name}: recording rule", round(ruled[name], 3))
        assert ruled[name] == pytest.approx(window[name], abs=0.05)


def test_without_the_cloud_the_edge_goes_on_and_with_it_again_as_before(
    stack: Compose, edge: httpx.Client
) -> None:
    before = _generate(edge, mode="cloud")["generated_text"]
    stack.run("stop", "cloud")
    assert stack.container("cloud")["State"]["ExitCode"] == 0
    alone = _generate(edge, mode="collaborative", threshold=1)
    assert alone["details"]["degraded"]
    assert _sources(alone) == {"fallback"}
    refused = edge.post("/generate", json={"inputs": PROMPT, "parameters": {"mode": "cloud"}})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    stack.run("start", "cloud")
    _reachable(edge)
    assert _generate(edge, mode="cloud")["generated_text"] == before


def test_a_restarted_cloud_is_found_again(stack: Compose, edge: httpx.Client) -> None:
    before = _generate(edge, mode="cloud")["generated_text"]
    stack.run("restart", "cloud")
    # An edge looks every two seconds: until then it holds a cloud that is loading for reachable.
    eventually(
        lambda: dict(_healths(stack))["cloud"], lambda health: health == "healthy", seconds=60
    )
    _reachable(edge)
    assert _generate(edge, mode="cloud")["generated_text"] == before


def test_over_several_replicas_a_session_stays_with_one(
    stack: Compose, edge: httpx.Client, prometheus: Prometheus
) -> None:
    before = _generate(edge, mode="cloud")["generated_text"]
    stack.run("up", "--detach", "--no-build", "--no-recreate", "--scale", "cloud=3", *SERVICES)
    up = 'count(up{job="cloud"} == 1)'
    eventually(lambda: prometheus.values(up, ""), lambda seen: seen == {"": 3.0}, seconds=60)
    # Edges ask again for the addresses behind a name after ten seconds.
    time.sleep(12)
    sent_again = "sum(tandem_rewinds_total)"
    rewinds = prometheus.values(sent_again, "")
    chosen = "sum(tandem_tokens_total{job='cloud'})"
    tokens = prometheus.values(chosen, "")[""]
    with ThreadPoolExecutor(4) as together:
        answers = list(
            together.map(lambda mode: _generate(edge, mode=mode, codec="fp32"), ["split"] * 8)
        )
    assert {answer["generated_text"] for answer in answers} == {before}
    eventually(
        lambda: prometheus.values(chosen, "")[""], lambda seen: seen >= tokens + 8 * 24, seconds=20
    )
    assert prometheus.values(sent_again, "") == rewinds


def test_a_replica_killed_and_one_drained_under_load_fail_no_request(
    stack: Compose, prometheus: Prometheus, record_figure: Callable[[str, object], None]
) -> None:
    """Three replicas, four edges: one replica dies as in a power cut, another is told to stop."""
    stack.run("up", "--detach", "--no-build", "--no-recreate", "--scale", "cloud=3", *SERVICES)
    up = 'count(up{job="cloud"} == 1)'
    eventually(lambda: prometheus.values(up, ""), lambda seen: seen == {"": 3.0}, seconds=60)
    moves = "sum(tandem_session_moves_total)"
    before = prometheus.values(moves, "").get("", 0.0)

    def moved_since() -> float:
        return prometheus.values(moves, "").get("", 0.0) - before

    killed, drained, _ = [c["Id"] for c in stack.containers() if service_of(c) == "cloud"]
    edges = [part for name in EDGES for part in ("--edge", f"{name}=http://{name}:8000")]
    with ThreadPoolExecutor(1) as beside:
        load = beside.submit(
            stack.run, "run", "--rm", "load", *edges, "--users", "8", "--duration", "60",
            "--max-new-tokens", "32", "--mode", "collaborative=1", "--mode", "cloud=1",
            "--mode", "verified=1", "--mode", "split=1", "--json", "-",
        )  # fmt: skip
        time.sleep(15)
        docker("kill", "--signal", "KILL", killed)
        moved = eventually(moved_since, lambda seen: seen > 0, seconds=25)
        record_figure("sessions that moved once it was killed", moved)
        docker("stop", "--time", "30", drained)
        report = json.loads(load.result())
    (state,) = (c["State"] for c in stack.containers() if c["Id"] == drained)
    assert state["ExitCode"] == 0
    total = report["total"]
    record_figure("requests while a replica was killed and one drained", total["requests"])
    record_figure("of these failed", sum(total["errors"].values()))
    assert not total["errors"]
    assert not total["degraded"]
    record_figure("sessions that moved in all", eventually(moved_since, bool, seconds=30))
    # Both come back as they were, for the tests that follow.
    docker("start", killed, drained)
    eventually(lambda: prometheus.values(up, ""), lambda seen: seen == {"": 3.0}, seconds=60)


def test_stopping_ends_every_service_cleanly(stack: Compose) -> None:
    stack.run("stop")
    ended = {service_of(c): c["State"]["ExitCode"] for c in stack.containers()}
    assert ended == dict.fromkeys(ended, 0)
    assert docker("ps", "-q", "--filter", "label=com.docker.compose.project=tandem-e2e") == ""
