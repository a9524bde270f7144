"""The services of an overload: a paced edge and its cloud on one core, with a file of keys."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx

from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.processes import HOST, Service, free_ports, stop, wait_ready


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs; `keys` are sent to the edge, of which the `limited` may ask for little."""

    edge: Service
    cloud: Service
    edge_url: str
    cloud_url: str
    keys: Sequence[str]
    limited: Sequence[str]

    def resident_bytes(self) -> dict[str, int]:
        """Memory each of them holds (Linux)."""
        return {each.name: _resident(each.process.pid) for each in (self.edge, self.cloud)}

    def metrics(self, url: str) -> str:
        """What a service exposes."""
        answer = httpx.get(f"{url}/metrics", headers=bearer(self.keys[0]), trust_env=False)
        return answer.raise_for_status().text


def bearer(key: str) -> dict[str, str]:
    """The header that sends a key."""
    return {"authorization": f"Bearer {key}"}


@contextmanager
def running(
    folder: Path, *, core: int | None, at_once: int, callers: int, limited: int, per_minute: int
) -> Iterator[Stage]:
    """Start both services; `limited` of the `callers` may send so many requests `per_minute`."""
    split, edge_depth = exits_beside(SHIPPED_MODEL)
    make_bundles(SHIPPED_MODEL, folder, split=split, edge_depth=edge_depth)
    keys = [secrets.token_urlsafe(32) for _ in range(callers)]
    file = folder / "keys.toml"
    file.write_text("".join(_entry(n, k, n < limited, per_minute) for n, k in enumerate(keys)))
    edge_port, cloud_port = free_ports(2)
    edge_url, cloud_url = f"http://{HOST}:{edge_port}", f"http://{HOST}:{cloud_port}"
    own = {
        "cloud": {"bundle": folder / "cloud", "port": cloud_port},
        "edge": {
            "bundle": folder / "edge",
            "port": edge_port,
            "cloud_url": cloud_url,
            "max_requests": at_once,
            "keys_file": file,
            "mode": "collaborative",
        },
    }
    started: list[Service] = []
    try:
        for side, settings in own.items():
            started.append(_start(side, settings, core, folder))
        cloud, edge = started
        wait_ready(cloud, cloud_url)
        wait_ready(edge, edge_url)
        yield Stage(edge, cloud, edge_url, cloud_url, keys[limited:], keys[:limited])
    finally:
        stop(started)


def _start(side: str, settings: Mapping[str, object], core: int | None, folder: Path) -> Service:
    command = [sys.executable, "-m", "benchmarks.service", side, "--paced"]
    if core is not None:
        command += ["--core", str(core)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    given = {**settings, "threads": 1, "log_level": "ERROR"}
    environment |= {f"TANDEM_{side}_{k}".upper(): str(value) for k, value in given.items()}
    log = folder / f"{side}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return Service(side, process, log)


def _entry(number: int, key: str, limited: bool, per_minute: int) -> str:
    scopes = '["generate", "metrics"]'
    entry = f'[keys.caller-{number}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n'
    entry += f"scopes = {scopes}\n"
    return entry + (f"requests_per_minute = {per_minute}\n" if limited else "")


def _resident(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")
