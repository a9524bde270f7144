"""An edge, the fault proxy, replicas and their store: real processes that scenarios share.

A scenario kills what it wants; `restore` brings back what is dead, and nothing else.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.faults.client import Told, tell
from tests.faults.moments import Moment
from tests.faults.nursery import Nursery
from tests.faults.proxy import FaultProxy
from tests.support.apps import PATIENCE
from tests.support.redis_server import RedisServer
from tests.support.services import Service
from tests.support.wishes import Wish

# An edge that notices soon, and drafts whatever it measures.
EDGE: Mapping[str, str] = {
    "cloud_timeout_seconds": "3",
    "connect_timeout_seconds": "1",
    "first_pause_seconds": "0.05",
    "longest_pause_seconds": "0.2",
    "probe_seconds": "0.1",
    "draft_plan": "assist",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a stack is made of; `redis` keeps the contexts in one."""

    replicas: int = 2
    redis: bool = False


@dataclass(slots=True)
class Uninterrupted:
    """A request's answer when nothing happens to it, and the tokens the proxy saw at each
    moment.
    """

    told: Told
    seen: dict[Moment, list[int]]


@dataclass(slots=True)
class Stack:
    """The running processes."""

    clouds: list[Service]
    edge: Service
    proxy: FaultProxy
    redis: RedisServer | None
    dead: set[int] = field(default_factory=set)
    redis_dead: bool = False
    _told: dict[str, Uninterrupted] = field(default_factory=dict)

    def kill(self, replica: int) -> None:
        """kill -9 a replica; its port refuses from now on (in the proxy's thread)."""
        if replica not in self.dead:
            self.clouds[replica].kill()
            self.proxy.shut(replica)
            self.dead.add(replica)

    def bury(self) -> None:
        """Note which replicas have ended by themselves."""
        for replica, cloud in enumerate(self.clouds):
            if not cloud.is_alive():
                self.proxy.call(lambda replica=replica: self.kill(replica))  # type: ignore[misc]

    def revive_edge(self) -> None:
        """Start another edge in the place of one that was killed."""
        self.edge.start()
        self.edge.wait_until_ready("reachable")

    def revive(self) -> None:
        """Start dead replicas again and wait until they are ready; each is as new."""
        dead = sorted(self.dead)
        for replica in dead:
            self.clouds[replica].start()
        for replica in dead:
            self.clouds[replica].wait_until_ready()
            self.proxy.listen(replica)
            self.dead.discard(replica)

    def restore(self) -> None:
        """Bring everything back, and wait until the edge has seen it."""
        self.proxy.heal()
        if self.redis is not None and self.redis_dead:
            self.redis.start()
            self.redis_dead = False
        self.revive()
        if not self.edge.is_alive():
            self.revive_edge()
        self.until_seen()

    def until_seen(self) -> None:
        """Wait until the edge trusts every replica."""
        deadline = time.monotonic() + PATIENCE
        while (seen := self._seen()).get("serving") != len(self.clouds):
            assert time.monotonic() < deadline, (seen, self.edge.tail())
            time.sleep(0.02)

    def _seen(self) -> dict[str, int]:
        ready = httpx.get(f"{self.edge.url}/readyz", timeout=PATIENCE).json()
        found: dict[str, int] = ready["replicas"]
        return found

    def uninterrupted(self, wish: Wish) -> Uninterrupted:
        """What this stack makes of a request by itself; asked once."""
        key = repr(wish)
        if key not in self._told:
            self.proxy.forget()
            told = tell(self.edge.url, wish)
            assert told.error is None, told
            seen = {m: sorted({s.token for s in self.proxy.ledger.of(m)}) for m in Moment}
            self._told[key] = Uninterrupted(told, seen)
        return self._told[key]

    def tails(self) -> list[tuple[str, str]]:
        """Titles and ends of all logs."""
        services = [*self.clouds, self.edge]
        return [(f"{s.role} {s.port} log", s.tail()) for s in services]


@contextmanager
def running(plan: Plan, folder: Path, nursery: Nursery) -> Iterator[Stack]:
    """A stack for the length of a block."""
    with ExitStack() as stack:
        redis = None
        settings: dict[str, str] = {}
        if plan.redis:
            redis = RedisServer(folder)
            stack.callback(redis.stop)
            redis.start()
            settings |= {"store_url": redis.url}
        clouds = [
            Service("cloud", folder / f"cloud-{n}.log", settings, launch=nursery.launch)
            for n in range(plan.replicas)
        ]
        proxy = FaultProxy([cloud.port for cloud in clouds])
        given = {"cloud_url": proxy.urls, **EDGE}
        edge = Service("edge", folder / "edge.log", given, launch=nursery.launch)
        for service in (*clouds, edge):
            stack.callback(service.abandon)
            service.start()
        for cloud in clouds:
            cloud.wait_until_ready()
        stack.enter_context(proxy.serving())
        edge.wait_until_ready("reachable")
        yield Stack(clouds, edge, proxy, redis)


def until_settled(stack: Stack) -> None:
    """Wait until no replica holds a session.

    Raises:
        AssertionError: one still does after `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while held := [c.port for c in stack.clouds if _gauge(c, "tandem_contexts")]:
        assert time.monotonic() < deadline, f"{held} still hold sessions"
        time.sleep(0.05)


def _gauge(service: Service, name: str) -> float:
    text = httpx.get(f"{service.url}/metrics", timeout=PATIENCE).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))
