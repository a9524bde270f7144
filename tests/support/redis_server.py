"""A real redis-server as a process of its own, on a free port of this machine, kept in memory only.

It can be killed, and started again on the same port with the data it had (a snapshot it was asked
for) or without. Where Debian's `redis-server` is missing, tests are skipped; in CI they fail.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.apps import PATIENCE
from tests.support.services import free_port
from tests.support.tools import required

SNAPSHOT = "dump.rdb"


def redis_binary() -> str:
    """Where redis-server is; without it the test is skipped, or fails in CI."""
    return required("redis-server", "redis-server")


@dataclass(slots=True)
class RedisServer:
    """One server, its files in `folder`.

    Args:
        options: further options of the command line, e.g. `("--maxmemory", "2mb")`.
        password: asked of every client, if not empty.
    """

    folder: Path
    options: tuple[str, ...] = ()
    password: str = ""
    port: int = field(default_factory=free_port)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """What a client connects to, the same after a restart."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; with a snapshot in its folder it has that data."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        options += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        options += ["--dbfilename", SNAPSHOT, *self.options]
        if self.password:
            options += ["--requirepass", self.password]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [redis_binary(), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, f"redis-server ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"redis-server is not ready:\n{self.tail()}"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL); what was not in a snapshot is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def snapshot(self) -> None:
        """Write its data to its folder now: a server that is killed then comes back with it."""
        assert self.command("SAVE").startswith(b"+OK")

    def restart(self, *, with_data: bool) -> None:
        """Kill it and start it again, with what it held at this moment or with nothing."""
        if with_data:
            self.snapshot()
        self.kill()
        if not with_data:
            (self.folder / SNAPSHOT).unlink(missing_ok=True)
        self.start()

    def flush(self) -> None:
        """Lose every key, as a server restarted without its data has."""
        assert self.command("FLUSHALL", "SYNC").startswith(b"+OK")

    def spoil(self, pattern: str) -> None:
        """Replace the first entry of every list whose key is like `pattern`."""
        each = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do"
        script = f"{each} redis.call('LSET', key, 0, 'spoilt') end"
        assert self.command("EVAL", script, "0", pattern).startswith(b"$-1")

    def keys(self) -> int:
        """How many keys it holds."""
        return int(self.command("DBSIZE").strip().removeprefix(b":"))

    def command(self, *words: str) -> bytes:
        """Send one command on a connection of its own; returns its answer as it travels, of a line
        or what comes with it.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as line:
            if self.password:
                line.sendall(_packed("AUTH", self.password))
                assert line.recv(64).startswith(b"+OK")
            line.sendall(_packed(*words))
            return line.recv(1 << 16)

    def stop(self) -> None:
        """End it whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def tail(self) -> str:
        """The end of its log."""
        log = self.folder / "redis.log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_server(folder: Path, *options: str, password: str = "") -> Iterator[RedisServer]:
    """Run a server with its files in `folder`."""
    server = RedisServer(folder, options, password)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _packed(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
