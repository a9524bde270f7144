"""One bit flipped on the way, in every field of every kind of frame: it is noticed and counted, and
the text is the same or the request is refused; it is never another text.
"""

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import pytest

from shared.protocol.messages import (
    Block,
    Close,
    Fault,
    HiddenBlock,
    Opening,
    Pressure,
    Report,
    Sampling,
)
from shared.protocol.version import PATH_BLOCKS, PATH_CLOSE, PATH_STREAM
from tests.faults.client import Told, tell
from tests.faults.conftest import StackOf
from tests.faults.fields import HEADER, fields_of
from tests.faults.stack import Plan, Stack
from tests.faults.wishes import wish
from tests.support.apps import PATIENCE
from tests.support.results import Figure
from tests.support.size import Size

PARTS = {"states": HiddenBlock, "opening": Opening, "sampling": Sampling, "pressure": Pressure}
KINDS: Mapping[str, tuple[int, type]] = {
    "block": (1, Block),
    "report": (2, Report),
    "close": (3, Close),
    "fault": (4, Fault),
}
UP = ("block", "close")
MOST_REQUESTS = 150


def all_fields(message: type, prefix: str = "") -> set[str]:
    """The names of a message's fields, those of its parts included."""
    found = set()
    for each in fields(message):
        part = PARTS.get(each.name)
        found |= all_fields(part, f"{prefix}{each.name}.") if part else {f"{prefix}{each.name}"}
    return found


@dataclass(slots=True)
class Flipper:
    """Flips a bit of every field of one kind of frame, one field a frame, every `pace`-th frame.

    A fault is the answer to a damaged block, so to meet one a block is damaged first.
    """

    kind: str
    left: set[str]
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    pace: int = 3
    done: int = 0
    damaged: int = 0
    _frames: int = 0

    def __call__(self, path: str, up: bool, body: bytes) -> bytes:
        """See `proxy.Tamper`."""
        if path not in (PATH_BLOCKS, PATH_STREAM, PATH_CLOSE) or len(body) < 12:
            return body
        if self.kind == "fault" and up and path != PATH_CLOSE:
            return self._damaged(body)
        if up is not (self.kind in UP) or body[3] != KINDS[self.kind][0] or body[:2] != b"TD":
            return body
        self._frames += 1
        length = 12 + int.from_bytes(body[4:8], "little")
        places = fields_of(body[:length])
        present = sorted(self.left & places.keys())
        # What a session says only once is taken whenever it comes.
        rare = [name for name in present if name.startswith("opening")]
        spared = self.kind in ("block", "report") and self._frames % self.pace != 0
        if not present or (spared and not rare):
            return body
        name = self.draw.choice(rare or present)
        self.left.discard(name)
        self.done += 1
        return self._flipped(body, places[name])

    def _damaged(self, body: bytes) -> bytes:
        self._frames += 1
        if self._frames % self.pace or not self.left:
            return body
        self.damaged += 1
        return self._flipped(body, range(len(body) - 4, len(body)))

    def _flipped(self, body: bytes, place: range) -> bytes:
        bit = self.draw.randrange(8 * place.start, 8 * place.stop)
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)


def noticed(stack: Stack) -> dict[str, float]:
    """What either side has counted of frames it could not read, by where and why."""
    found: dict[str, float] = {}
    for service in (*stack.clouds, stack.edge):
        for labels, count in re.findall(
            r"tandem_cloud_requests_total{(.*?)} (\S+)", service.metrics()
        ):
            outcome = re.search(r'outcome="(.*?)"', labels)
            assert outcome is not None
            if outcome[1] not in ("ok", "cancelled"):
                key = f"{service.role} {outcome[1]}"
                found[key] = found.get(key, 0) + float(count)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_every_field(
    kind: str, stack_of: StackOf, size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    stack = stack_of(Plan())
    flipper = Flipper(kind, HEADER.keys() | {"checksum"} | all_fields(KINDS[kind][1]))
    ways: Sequence[str] = ("split", "cloud", "verified states")
    stack.restore()
    expected = {way: stack.uninterrupted(wish(way, tokens=8)).told for way in ways}
    before = noticed(stack)
    stack.proxy.tamper = flipper
    refused: list[Told] = []
    for number in range(MOST_REQUESTS):
        if not flipper.left:
            break
        way = ways[number % len(ways)]
        told = tell(stack.edge.url, wish(way, tokens=8))
        if told.error is not None:
            assert told.ids == expected[way].ids[: len(told.ids)]
            refused.append(told)
        else:
            assert told.ids == expected[way].ids
    stack.proxy.tamper = None
    assert not flipper.left, "fields that were never met"
    deadline = time.monotonic() + PATIENCE
    while True:
        after = noticed(stack)
        counted = {name: after[name] - before.get(name, 0) for name in after}
        # The last one may be in an upload that ends after the text has.
        if sum(counted.values()) >= flipper.done or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    record_figure("bits flipped", flipper.done)
    record_figure("requests refused", len(refused))
    record_figure("counted", str({name: n for name, n in counted.items() if n}))
    assert sum(counted.values()) >= flipper.done
