"""Every query of every panel against a real Prometheus that scrapes real services under load: none
comes back empty, none stays at zero.

The load is one in which everything happens that a panel shows: all modes, too many requests, more
sessions than the cloud holds, an edge, a replica and then the cloud killed, logs damaged, and the
cloud's return.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.repo.tree import ROOT
from tests.support.apps import PATIENCE
from tests.support.dashboards import Question, offered, questions
from tests.support.prometheus import Prometheus, eventually
from tests.support.prompts import prompts
from tests.support.redis_server import RedisServer, redis_server
from tests.support.reference import text
from tests.support.services import Service, free_port

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None and not os.environ.get("CI"),
    reason="needs Debian's package `prometheus`",
)
pytestmark = [needs_prometheus, pytest.mark.timeout(900)]

RULES = ROOT / "monitoring" / "prometheus" / "rules"
VALUES = ROOT / "tests" / "results" / "panels.json"
VARIABLES = {"__rate_interval": "10s", "edge": ".*", "replica": ".*"}
RECORDED = [
    Question("rules", rule["record"], "", rule["record"])
    for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    for rule in group["rules"]
]
# Series that this load has to move one by one, where a panel's query gives several.
MOVED = {
    "cloud/Sessions opened and ended/B": ("reason", {"closed", "expired", "evicted"}),
    "overview/Tokens by source/A": ("source", {"exit:3", "exit:6", "cloud", "fallback"}),
    "overview/Finish reason/B": ("reason", {"overloaded", "invalid"}),
    "cloud/Tokens chosen/A": ("mode", {"collaborative", "cloud", "split"}),
    "cloud/Questions to the store/A": ("operation", {"claim", "append", "replace", "close"}),
}


@dataclass(frozen=True, slots=True)
class Watched:
    """A Prometheus that has seen the load; `began` and `ended` are its seconds."""

    prometheus: Prometheus
    began: float
    ended: float

    def series(self, query: str) -> list[dict[str, Any]]:
        """The series of a range query over the whole load."""
        answer = self.prometheus.api(
            "query_range", query=query, start=str(self.began), end=str(self.ended), step="1"
        )
        found: list[dict[str, Any]] = answer["result"]
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("panels")
    tight = {"max_contexts": "6", "context_bytes": "2600000", "context_ttl_seconds": "2"}
    quick = {"probe_seconds": "0.3", "first_pause_seconds": "0.1", "longest_pause_seconds": "0.5"}
    port = free_port()
    with redis_server(folder) as redis, ExitStack() as ending:
        # Prometheus looks at the first replica alone.
        cloud, other = (
            Service("cloud", folder / f"{name}.log", {"store_url": redis.url, **tight})
            for name in ("one", "two")
        )
        given = {"cloud_url": f"{cloud.url},{other.url}", "max_requests": "5", **quick}
        given["audit_share"] = "1"
        edges = [Service("edge", folder / f"{name}.log", given) for name in ("a", "b")]
        process = _prometheus(folder, port, cloud, edges)
        ending.callback(process.wait)
        ending.callback(process.terminate)
        for service in (cloud, *edges):
            service.start()
            ending.callback(service.abandon)
        began = time.time()
        ending.callback(other.abandon)
        _load(cloud, other, edges, redis)
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        # The last of the load is to be scraped, and the rules to have seen it.
        time.sleep(3)
        yield Watched(prometheus, began, time.time())


def _prometheus(
    folder: Path, port: int, cloud: Service, edges: list[Service]
) -> "subprocess.Popen[bytes]":
    """The committed configuration, but for where the services are and how often it looks."""
    configuration = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES / "*.yml")]
    where: dict[str, list[tuple[str, dict[str, str]]]] = {
        "edge": [(f"127.0.0.1:{e.port}", {"edge": e.log.stem}) for e in edges],
        "cloud": [(f"127.0.0.1:{cloud.port}", {"replica": "one"})],
        "prometheus": [(f"127.0.0.1:{port}", {})],
    }
    configuration["scrape_configs"] = [
        {
            "job_name": job["job_name"],
            "static_configs": [{"targets": [a], "labels": b} for a, b in where[job["job_name"]]],
        }
        for job in configuration["scrape_configs"]
    ]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    command = (
        "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'store'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _load(cloud: Service, other: Service, edges: list[Service], redis: RedisServer) -> None:
    """Let everything happen that a panel shows."""
    for edge in edges:
        edge.wait_until_ready("reachable")
    calm = ("--users", "4", "--mode", "collaborative=2", "--mode", "cloud", "--mode", "split")
    _put(edges, 8, *calm, "--mode", "standalone", "--codec", "int8")
    with _putting(edges[1:], "--users", "4", "--mode", "split"):
        _until_counted(cloud, "tandem_contexts ")
        time.sleep(2)
        edges[1].kill()
    # The sessions of the edge that was killed stay until they expire.
    _until_counted(cloud, 'tandem_contexts_ended_total{reason="expired"')
    edges[1].start()
    edges[1].wait_until_ready("reachable")
    (long,) = prompts(text(), 1, length=100)
    for _ in range(2):  # the second begins as the first did
        twice = {"inputs": long, "parameters": {"mode": "split", "max_new_tokens": 2}}
        assert httpx.post(f"{edges[0].url}/generate", json=twice).status_code == 200
    held = {"mode": "collaborative", "max_disagreement": 0.05}
    promised = httpx.post(f"{edges[0].url}/generate", json={"inputs": long, "parameters": held})
    assert promised.status_code == 200
    refused = {"inputs": "Once", "parameters": {"max_new_tokens": 100_000}}
    assert httpx.post(f"{edges[0].url}/generate", json=refused).status_code == 422
    # More sessions than the cloud has room for: those it put out it takes up from the store.
    with _putting(edges, "--users", "14", "--mode", "collaborative=3", "--mode", "split"):
        _until_counted(cloud, 'tandem_contexts_ended_total{reason="evicted"')
        damaged = "tandem_store_damaged_entries_total"
        _until_counted(cloud, damaged, lambda: redis.spoil("tandem:log:*"))
        time.sleep(4)
    other.start()
    other.wait_until_ready()
    # The sessions of one replica go on at the other; then that one ends as well.
    with _putting(edges, *calm):
        _until_counted(other, "tandem_tokens_total")
        time.sleep(2)
        other.kill()
        time.sleep(3)
        cloud.kill()
        time.sleep(4)
    cloud.start()
    for edge in edges:
        edge.wait_until_ready("reachable")
    _put(edges, 4, *calm)


def _until_counted(
    service: Service, series: str, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Wait until lines of a service's metrics that begin so are above zero."""

    def look() -> float:
        meanwhile()
        lines = (line for line in service.metrics().splitlines() if line.startswith(series))
        return sum(float(line.split()[-1]) for line in lines)

    eventually(look, lambda count: count > 0, seconds=PATIENCE)


def _put(edges: list[Service], seconds: int, *options: str) -> None:
    _generator(edges, seconds, *options).wait()


@contextmanager
def _putting(edges: list[Service], *options: str) -> Iterator[None]:
    """Load for as long as the block."""
    generator = _generator(edges, 10 * round(PATIENCE), *options)
    try:
        yield
    finally:
        generator.terminate()
        generator.wait()


def _generator(edges: list[Service], seconds: int, *options: str) -> "subprocess.Popen[bytes]":
    where = [part for e in edges for part in ("--edge", f"{e.log.stem}={e.url}")]
    command = (
        sys.executable, "-m", "cli.load", *where, "--duration", str(seconds), "--max-new-tokens",
        "40", "--max-error-share", "1", *options,
    )  # fmt: skip
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)


@pytest.mark.parametrize("question", [*questions(), *RECORDED], ids=lambda each: each.name)
def test_a_panels_query_answers_and_the_load_moves_it(watched: Watched, question: Question) -> None:
    series = watched.series(question.sent(VARIABLES))
    assert series, "the answer is empty"
    moved = [each for each in series if any(_number(v) > 0 for _, v in each["values"])]
    assert moved, f"{len(series)} series, all of them zero"
    label, wanted = MOVED.get(question.name, ("", {""}))
    assert wanted <= {each["metric"].get(label, "") if label else "" for each in moved}
    for name in re.findall(r"{{(\w+)}}", question.legend):
        assert all(name in each["metric"] for each in series), f"the legend's {name} is no label"
    _keep(question.name, series)


CHOOSING = [each for each in questions() if re.search(r"\$(edge|replica)\b", each.expr)]


@pytest.mark.parametrize("question", CHOOSING, ids=lambda each: each.name)
def test_a_panel_shows_only_what_its_variable_chose(watched: Watched, question: Question) -> None:
    nobody = question.sent(VARIABLES | {"edge": "nobody", "replica": "nobody"})
    assert not [v for each in watched.series(nobody) for _, v in each["values"] if _number(v)]


@pytest.mark.parametrize("variable", offered())
def test_a_variable_offers_those_that_are_there(watched: Watched, variable: str) -> None:
    label, selector = offered()[variable]
    there = {each["metric"][label] for each in watched.series(selector)}
    assert there == {"edge": {"a", "b"}, "replica": {"one"}}[label]


def _number(value: str) -> float:
    number = float(value)
    return number if math.isfinite(number) else 0.0


def _keep(name: str, series: list[dict[str, Any]]) -> None:
    """Write what the query answered: the largest value of each series."""
    VALUES.parent.mkdir(exist_ok=True)
    values = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    values[name] = {
        ",".join(f"{k}={v}" for k, v in each["metric"].items() if k != "__name__"): max(
            _number(value) for _, value in each["values"]
        )
        for each in series
    }
    VALUES.write_text(json.dumps(values, indent=1) + "\n")


def test_no_rule_fails(watched: Watched) -> None:
    groups = watched.prometheus.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > len(RECORDED)
    assert not [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")]


def test_a_lost_cloud_shows_and_so_does_its_return(watched: Watched) -> None:
    (edge,) = watched.series('tandem_link_up{job="edge",edge="a"}')
    up = [value for _, value in edge["values"]]
    assert "0" in up
    assert up[-1] == "1"
    assert eventually(
        lambda: watched.prometheus.values("up", "job"), lambda seen: set(seen.values()) == {1.0},
        seconds=10,
    )  # fmt: skip
