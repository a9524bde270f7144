"""`tandem load` against real services: it counts what they count, and says so in the ways asked."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.apps import PATIENCE
from tests.support.services import ROOT, Services, hears

COMMAND = (sys.executable, "-m", "cli.load")
NOBODY = "http://127.0.0.1:9"


def _load(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (*COMMAND, *arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )


def _tokens(services: Services) -> dict[str, float]:
    """Tokens so far by source, as the edge counts them."""
    text = httpx.get(f"{services.edge.url}/metrics", trust_env=False).text
    counted: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "tandem_tokens_total":
                source = sample.labels["source"]
                counted[source] = counted.get(source, 0) + sample.value
    return counted


def test_it_counts_the_tokens_the_edge_counts(services: Services, tmp_path: Path) -> None:
    before = _tokens(services)
    done = _load(
        "--edge", f"one={services.edge.url}", "--users", "3", "--requests", "9", "--turns", "2",
        "--mode", "collaborative=2", "--mode", "cloud", "--mode", "standalone",
        "--max-new-tokens", "12", "--wait-ready", "30", "--json", "-",
        "--plot", str(tmp_path / "load.svg"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    after = _tokens(services)
    counted = {source: after[source] - before.get(source, 0) for source in after}
    assert report["total"]["tokens_by_source"] == {s: n for s, n in sorted(counted.items()) if n}
    assert report["edges"]["one"] == report["total"]
    assert report["total"]["requests"] == 9
    assert sum(mode["tokens"] for mode in report["modes"].values()) == report["total"]["tokens"]
    assert report["modes"]["standalone"]["offload_ratio"] == 0
    assert report["total"]["cloud_compute_seconds"] > 0
    assert "first token p50" in done.stderr
    assert (tmp_path / "load.svg").exists()


def test_failed_requests_make_it_fail_unless_that_many_are_allowed(services: Services) -> None:
    # The edge refuses a codec it does not know.
    arguments = ("--edge", services.edge.url, "--users", "1", "--requests", "2", "--codec", "fp8")
    done = _load(*arguments)
    assert done.returncode == 1
    assert "failed: 2 × http_422" in done.stdout
    assert "100.0% of the requests failed" in done.stderr
    assert _load(*arguments, "--max-error-share", "1").returncode == 0


def _until(true: Callable[[], bool], running: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_told_to_stop_it_reports_what_it_measured(services: Services) -> None:
    arguments = (
        "--edge", services.edge.url, "--users", "2", "--duration", "60", "--json", "-",
        "--max-new-tokens", "12",
    )  # fmt: skip
    before = sum(_tokens(services).values())
    with subprocess.Popen(
        (*COMMAND, *arguments),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        # More than two users' first answers: one of them has been read to its end.
        _until(lambda: sum(_tokens(services).values()) > before + 2 * 12, running)
        running.send_signal(signal.SIGTERM)
        told, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    report = json.loads(told)
    assert report["total"]["tokens"] > 0
    assert report["total"]["errors"] == {"stopped": 2}
    assert 0 < report["seconds"] < 50


def test_told_to_stop_while_it_waits_for_edges_it_ends_well() -> None:
    arguments = ("--edge", NOBODY, "--users", "2", "--duration", "60", "--wait-ready", "60")
    with subprocess.Popen(
        (*COMMAND, *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        _until(lambda: hears(running.pid, signal.SIGTERM), running)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, "")


def test_what_was_asked_wrongly_is_one_line_and_said_before_any_load() -> None:
    for arguments, message in (
        (("--users", "1", "--duration", "inf"), "--duration inf is no number"),
        (("--users", "1", "--duration", "60", "--json", "/none/x"), "there is no folder /none"),
        (("--users", "1", "--duration", "60", "--plot", "x.exe"), "no picture has such a name"),
        (("--rate", "0.0001", "--duration", "1"), "no request was due"),
        (("--users", "1", "--rate", "2", "--duration", "1"), "one of them"),
        (("--users", "1"), "give --duration or --requests, one of them"),
    ):
        done = _load("--edge", NOBODY, *arguments)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
