"""Services forked from a process that has imported them: a start takes the time the model takes to
load, not that of torch's imports besides, four fifths of it.

The nursery computes nothing and starts no threads, so what it forks is a fresh process as any other
(Linux). It reads a command a line and answers each with a line, JSON both.
"""

import json
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Serve commands until standard input ends."""
    import services.cloud.main
    import services.edge.main  # noqa: F401

    for line in sys.stdin:
        command = json.loads(line)
        answer = _start(**command["start"]) if "start" in command else _ended(command["ended"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _start(role: str, environment: Mapping[str, str], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    with open(log, "ab") as out, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [f"services.{role}"]
    runpy.run_module(f"services.{role}", run_name="__main__", alter_sys=True)
    os._exit(0)


def _ended(pid: int) -> int | None:
    """The exit code of a process that has ended, a negative number for a signal's."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


@dataclass(slots=True)
class Forked:
    """A process of the nursery, with the part of `subprocess.Popen` that `Service` uses."""

    nursery: "Nursery"
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self.code is None:
            self.code = self.nursery.ask(ended=self.pid)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit code."""
        deadline = time.monotonic() + (timeout or 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(9)


@dataclass(slots=True)
class Nursery:
    """A running nursery, to start services with (`Service.launch`)."""

    process: "subprocess.Popen[str]"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def launch(self, role: str, environment: Mapping[str, str], log: Path) -> Forked:
        """Start a service with this environment."""
        given = {"role": role, "environment": dict(environment), "log": str(log)}
        return Forked(self, int(self.ask(start=given)))

    def ask(self, **command: Any) -> Any:
        """Send a command and return its answer; from any thread."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())


@contextmanager
def nursery(before: str = "") -> Iterator[Nursery]:
    """A nursery for the length of a block; what it started is to be ended before the block does.

    Args:
        before: Python to run before anything of the services is imported.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\nfrom tests.faults.nursery import main\nmain()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Nursery(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
