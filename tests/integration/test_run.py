"""`tandem run`: it speaks up when both sides can be used, and ends with both."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.apps import PATIENCE
from tests.support.reference import bundles
from tests.support.services import ROOT, free_port


@contextmanager
def tandem_run(edge_port: int, cloud_port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """The command with the reference model; it and its children are a process group."""
    made = bundles()
    command = [sys.executable, "-c", "from cli.main import main; main()", "run"]
    command += ["--edge-bundle", str(made.edge), "--cloud-bundle", str(made.cloud)]
    command += ["--edge-port", str(edge_port), "--cloud-port", str(cloud_port)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_until(process: "subprocess.Popen[bytes]", word: bytes) -> bytes:
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    deadline, seen = time.monotonic() + 2 * PATIENCE, b""
    while word not in seen:
        assert time.monotonic() < deadline, seen.decode()
        ready, _, _ = select.select([process.stderr], [], [], 0.5)
        piece = process.stderr.read() if ready else None
        assert piece != b"", seen.decode()
        seen += piece or b""
    return seen


def test_once_it_says_ready_the_first_request_is_served_by_both_sides() -> None:
    edge_port, cloud_port = free_port(), free_port()
    with tandem_run(edge_port, cloud_port) as process:
        read_until(process, b"ready: edge on")
        asked = {"inputs": "Once", "parameters": {"threshold": 1.0, "details": True}}
        url = f"http://127.0.0.1:{edge_port}/generate"
        details = httpx.post(url, json=asked, timeout=PATIENCE).json()["details"]
        assert details["degraded"] is False
        assert "cloud" in details["usage"]["tokens_by_source"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        for port in (edge_port, cloud_port):
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/healthz")


def test_told_to_stop_while_it_starts_it_stops_both() -> None:
    with tandem_run(free_port(), free_port()) as process:
        read_until(process, b"serving")  # the first of the two to say so
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
