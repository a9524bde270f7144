"""Sessions by the thousand: opened, left, evicted and come back to, on a real cloud with room for a
few at a time. Afterwards nothing of them is left, and on the way memory stays what it was.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.decoding.sampling import SAMPLER_VERSION
from shared.model import Manifest, load_bundle
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import Block, Close, Opening, Report, Sampling, Want
from shared.protocol.version import MEDIA_TYPE, PATH_BLOCKS, PATH_CLOSE
from shared.protocol.wire import canonical, decode, encode
from tests.support.apps import PATIENCE
from tests.support.prompts import prompts
from tests.support.reference import bundles, text
from tests.support.services import Service
from tests.support.size import Size

AT_ONCE = 12  # sessions whose KV fits
TTL = 2.0
LENGTH = 40  # tokens of a prompt: with what follows one page
HEADERS = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Service]:
    """A cloud that has room for the KV of few sessions and soon forgets."""
    layout = load_bundle(bundles().cloud).kv_layout
    a_session = layout.layers * layout.page_rows * layout.row_bytes
    service = Service(
        "cloud",
        tmp_path / "cloud.log",
        {
            "context_bytes": str(AT_ONCE * a_session + 2 * 1024**2),
            "context_ttl_seconds": str(TTL),
        },
    )
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
            PATH_CLOSE, content=encode(Close(session=session)), headers=HEADERS
        )
        assert answer.status_code < 300, answer.text


def gauges(cloud: Service) -> dict[str, float]:
    """Every sample of the cloud without labels, by name, and evictions by kind."""
    found = {}
    for family in text_string_to_metric_families(cloud.metrics()):
        for sample in family.samples:
            found["/".join([sample.name, *sample.labels.values()])] = sample.value
    return found


def test_a_thousand_sessions_leave_nothing(
    cloud: Service, size: Size, record_figure: Callable[[str, float], None]
) -> None:
    count = size.pick(short=160, long=1000)
    codec = text()
    asked = [codec.encode(prompt)[:LENGTH] for prompt in prompts(codec, 8, length=LENGTH)]
    first: dict[int, tuple[int, ...]] = {}
    second: dict[int, tuple[int, ...]] = {}
    resident = []
    with httpx.Client(base_url=cloud.url, timeout=PATIENCE) as client:
        caller = Caller(client, Manifest.read(bundles().cloud))
        began = gauges(cloud)
        for number in range(count):
            which = number % len(asked)
            prompt = asked[which]
            token = caller.ask(f"s-{number}", prompt, len(prompt), sequence=1).tokens
            assert first.setdefault(which, token) == token
            if number % 3 == 0:
                caller.close(f"s-{number}")
            elif number % 3 == 1 and number > AT_ONCE:
                # Come back to one whose KV has been evicted, if not all of it.
                before = number - AT_ONCE + (number - AT_ONCE) % 3
                kept = asked[before % len(asked)]
                said = first[before % len(asked)]
                again = caller.ask(f"s-{before}", (*kept, *said), len(kept), sequence=2).tokens
                assert second.setdefault(before % len(asked), again) == again
            resident.append(cloud.resident_bytes())
        during = gauges(cloud)
    assert during["tandem_kv_evictions_total"] > count / 4
    assert during["tandem_kv_cache_bytes"] <= during["tandem_context_budget_bytes"]
    deadline = time.monotonic() + PATIENCE
    names = ("tandem_contexts", "tandem_context_bytes", "tandem_kv_cache_bytes")
    while any((after := gauges(cloud))[name] for name in names):
        assert time.monotonic() < deadline, {name: after[name] for name in names}
        time.sleep(0.2)
    assert {name: began[name] for name in names} == {name: after[name] for name in names}
    opened = after["tandem_contexts_created_total"]
    ended = sum(n for name, n in after.items() if name.startswith("tandem_contexts_ended_total"))
    assert opened == ended >= count
    settled = resident[count // 4]
    most = max(resident[count // 4 :])
    record_figure("resident after a quarter, MB", round(settled / 1e6, 1))
    record_figure("at most later, MB", round(most / 1e6, 1))
    record_figure("KV evicted", during["tandem_kv_evictions_total"])
    assert most <= 1.05 * settled
    assert cloud.resident_bytes() <= 1.05 * settled
