"""Sessions by the thousand: opened, left, evicted and come back to, on a real cloud with room for a
few at a time, which keeps their logs in its memory or in Redis. Afterwards nothing of them is left,
and on the way memory stays what it was.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.cloud.contexts.log_store import TOMBSTONE_SECONDS
from shared.decoding.sampling import SAMPLER_VERSION
from shared.model import Manifest, load_bundle
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import Block, Close, Opening, Report, Sampling, Want
from shared.protocol.version import MEDIA_TYPE, PATH_BLOCKS, PATH_CLOSE
from shared.protocol.wire import canonical, decode, encode
from tests.support.apps import PATIENCE
from tests.support.prompts import prompts
from tests.support.redis_server import RedisServer, redis_server
from tests.support.reference import bundles, text
from tests.support.services import Service
from tests.support.size import Size

AT_ONCE = 12  # sessions whose KV fits
TTL = 10.0
LENGTH = 8  # tokens of a prompt: with what follows one page
# Redis' own memory that an emptied one may hold beyond a new one: scripts, a connection's buffers.
SPARE_BYTES = 512 * 1024
GAUGES = ("tandem_contexts", "tandem_context_bytes", "tandem_kv_cache_bytes")
HEADERS = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}


@pytest.fixture(params=["memory", "Redis"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer | None]:
    """Where logs are kept, if not in the cloud's memory."""
    if request.param == "memory":
        yield None
        return
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def cloud(redis: RedisServer | None, tmp_path: Path) -> Iterator[Service]:
    """A cloud that has room for the KV of few sessions and soon forgets."""
    layout = load_bundle(bundles().cloud).kv_layout
    a_session = layout.layers * layout.page_rows * layout.row_bytes
    settings = {
        "context_bytes": str(AT_ONCE * a_session + 2 * 1024**2),
        "context_ttl_seconds": str(TTL),
    }
    if redis is not None:
        settings |= {"store_url": redis.url, "store_timeout_seconds": str(PATIENCE)}
    service = Service("cloud", tmp_path / "cloud.log", settings)
    service.start()
    try:
        service.wait_until_ready()
        yield service
        assert service.stop() == 0, service.tail()
    finally:
        service.abandon()


@dataclass
class Caller:
    """Speaks for edges that upload tokens only, as in mode `cloud`."""

    client: httpx.Client
    manifest: Manifest

    def ask(self, session: str, tokens: Sequence[int], prompt: int, *, sequence: int) -> Report:
        """Send all `tokens`, of which the first `prompt` are the prompt, and want the next."""
        opening = Opening(
            fingerprint=self.manifest.fingerprint,
            trunk_format="fp32",
            sampler_version=SAMPLER_VERSION,
            depth=self.manifest.depth,
            split=0,
            mode="cloud",
            codec="fp16",
            prompt_tokens=prompt,
            max_positions=prompt + 8,
            sampling=Sampling(),
        )
        root = root_digest(opening.fingerprint, session, canonical(opening))
        block = Block(
            session=session,
            sequence=sequence,
            revision=0,
            acknowledged=len(tokens),
            parent=root,
            start=0,
            tokens=tuple(tokens),
            binding=len(tokens),
            want=Want.NOW,
            count=1,
            opening=opening,
        )
        answer = self.client.post(PATH_BLOCKS, content=encode(block), headers=HEADERS)
        assert answer.status_code == 200, answer.text
        report = decode(answer.content, limit=1 << 20)
        assert isinstance(report, Report)
        through = [root, *extend_all(root, (*tokens, *report.tokens))][-1]
        assert report.digest == through
        return report

    def close(self, session: str) -> None:
        """Say goodbye."""
        answer = self.client.post(
            PATH_CLOSE, content=encode(Close(session=session, revision=0)), headers=HEADERS
        )
        assert answer.status_code < 300, answer.text


def gauges(cloud: Service) -> dict[str, float]:
    """Every sample of the cloud without labels, by name, and evictions by kind."""
    found = {}
    for family in text_string_to_metric_families(cloud.metrics()):
        for sample in family.samples:
            found["/".join([sample.name, *sample.labels.values()])] = sample.value
    return found


def used_memory(redis: RedisServer) -> int:
    """Bytes Redis has allocated."""
    told = redis.command("INFO", "memory").decode()
    return int(told.partition("used_memory:")[2].split()[0])


@dataclass
class Load:
    """Opens sessions; of every three one is closed, one abandoned, one come back to and abandoned.

    The same prompt gets the same tokens every time.
    """

    caller: Caller
    prompts: Sequence[Sequence[int]]
    closed: int = 0
    _said: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def step(self, number: int) -> None:
        """Open session `number`, and do with it or an earlier one what its turn is."""
        which = number % len(self.prompts)
        prompt = self.prompts[which]
        report = self.caller.ask(f"s-{number}", prompt, len(prompt), sequence=1)
        self._require_same(which, 1, report)
        if number % 3 == 0:
            self.caller.close(f"s-{number}")
            self.closed += 1
        elif number % 3 == 1 and number > AT_ONCE:
            # Its KV has been evicted, if not all of it; it was not closed.
            before = number - AT_ONCE + 1
            which = before % len(self.prompts)
            kept, said = self.prompts[which], self._said[which, 1]
            report = self.caller.ask(f"s-{before}", (*kept, *said), len(kept), sequence=2)
            self._require_same(which, 2, report)

    def _require_same(self, which: int, place: int, report: Report) -> None:
        assert self._said.setdefault((which, place), report.tokens) == report.tokens


def until_nothing_is_held(cloud: Service) -> dict[str, float]:
    """Wait for the time to live; what the cloud counts then."""
    deadline = time.monotonic() + PATIENCE
    while any((after := gauges(cloud))[name] for name in GAUGES):
        assert time.monotonic() < deadline, {name: after[name] for name in GAUGES}
        time.sleep(0.2)
    return after


def until_keys(redis: RedisServer, most: int, seconds: float) -> None:
    """Wait until Redis holds no more than so many keys."""
    deadline = time.monotonic() + seconds
    while (left := redis.keys()) > most:
        assert time.monotonic() < deadline, f"{left} keys are left"
        time.sleep(0.2)


@pytest.mark.timeout(900)
def test_sessions_by_the_thousand_leave_nothing(
    cloud: Service,
    redis: RedisServer | None,
    size: Size,
    record_figure: Callable[[str, float], None],
) -> None:
    count = size.pick(short=500, long=10_000)
    codec = text()
    asked = [codec.encode(prompt)[:LENGTH] for prompt in prompts(codec, 8, length=LENGTH)]
    empty = used_memory(redis) if redis else 0
    resident, stored, keys = [], [], []
    began, start = gauges(cloud), time.monotonic()
    with httpx.Client(base_url=cloud.url, timeout=PATIENCE) as client:
        load = Load(Caller(client, Manifest.read(bundles().cloud)), asked)
        for number in range(count):
            load.step(number)
            resident.append(cloud.resident_bytes())
            if redis and number % 50 == 0:
                stored.append(used_memory(redis))
                keys.append(redis.keys())
        during = gauges(cloud)
    record_figure("sessions a second", round(count / (time.monotonic() - start), 1))
    assert during["tandem_kv_evictions_total"] > count / 4
    assert during["tandem_kv_cache_bytes"] <= during["tandem_context_budget_bytes"]
    after = until_nothing_is_held(cloud)
    assert {name: began[name] for name in GAUGES} == {name: after[name] for name in GAUGES}
    opened = after["tandem_contexts_created_total"]
    ended = sum(n for name, n in after.items() if name.startswith("tandem_contexts_ended_total"))
    assert opened == ended >= count
    settled, most = resident[count // 4], max(resident[count // 4 :])
    record_figure("resident at first, MB", round(resident[0] / 1e6, 1))
    record_figure("resident after a quarter, MB", round(settled / 1e6, 1))
    record_figure("at most later, MB", round(most / 1e6, 1))
    record_figure("KV evicted", during["tandem_kv_evictions_total"])
    assert most <= 1.05 * settled
    assert cloud.resident_bytes() <= 1.05 * settled
    if redis is None:
        return
    # What was closed is remembered for a while, a small key each.
    until_keys(redis, load.closed, PATIENCE)
    if size is Size.LONG:
        until_keys(redis, 0, TOMBSTONE_SECONDS + PATIENCE)
        assert used_memory(redis) <= empty + SPARE_BYTES
    record_figure("keys in Redis, at most", max(keys))
    record_figure("keys left", redis.keys())
    record_figure("Redis at first, kB", round(empty / 1e3))
    record_figure("Redis at most, kB", round(max(stored) / 1e3))
    record_figure("Redis afterwards, kB", round(used_memory(redis) / 1e3))
