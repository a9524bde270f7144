"""One bit flipped on the way, in every field of every kind of frame: it is noticed and counted, and
the text is the same or the request is refused; it is never another text.
"""

import random
import re
import time
from collections import Counter
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

PARTS = {"states": HiddenBlock, "opening": Opening, "sampling": Sampling, "pressure": Pressure}
KINDS: Mapping[str, tuple[int, type]] = {
    "block": (1, Block),
    "report": (2, Report),
    "close": (3, Close),
    "fault": (4, Fault),
}
UP = ("block", "close")
MOST_REQUESTS = 150
SETTLING = 1.0  # seconds in which an upload's answer comes, where nobody gave it up


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

    A fault is the answer to a damaged block, so to meet one a block is damaged first. Of a stream
    one frame is damaged at most: nobody reads on behind it.
    """

    kind: str
    left: set[str]
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    pace: int = 3
    done: int = 0
    flipped: list[str] = field(default_factory=list)
    _frames: int = 0
    _broken: bool = False  # the stream that was asked for last

    def __call__(self, path: str, up: bool, body: bytes) -> bytes:
        """See `proxy.Tamper`."""
        if path not in (PATH_BLOCKS, PATH_STREAM, PATH_CLOSE) or len(body) < 12:
            return body
        if path == PATH_STREAM and up:
            self._broken = False
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
        if not present or (spared and not rare) or (path == PATH_STREAM and self._broken):
            return body
        self._broken |= path == PATH_STREAM
        name = self.draw.choice(rare or present)
        self.left.discard(name)
        self.flipped.append(name)
        return self._flipped(body, places[name])

    def settle(self, unread: int) -> None:
        """Look back on a request: all flips were met, or `unread` of them never reached a reader,
        and as nobody knows which, all fields are flipped once more.
        """
        if unread:
            self.left.update(self.flipped)
        else:
            self.done += len(self.flipped)
        self.flipped.clear()

    def _damaged(self, body: bytes) -> bytes:
        self._frames += 1
        if self._frames % self.pace or not self.left:
            return body
        return self._flipped(body, range(len(body) - 4, len(body)))

    def _flipped(self, body: bytes, place: range) -> bytes:
        bit = self.draw.randrange(8 * place.start, 8 * place.stop)
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)


@dataclass(frozen=True, slots=True)
class Counts:
    """What both sides have counted: frames they could not read, by where and why, and requests
    whose answers were given up.
    """

    noticed: Counter[str]
    cancelled: int


def read_counts(stack: Stack) -> Counts:
    """What the stack has counted until now."""
    noticed: Counter[str] = Counter()
    cancelled = 0
    for service in (*stack.clouds, stack.edge):
        for labels, count in re.findall(
            r"tandem_cloud_requests_total{(.*?)} (\S+)", service.metrics()
        ):
            outcome = re.search(r'outcome="(.*?)"', labels)
            assert outcome is not None
            if outcome[1] == "cancelled":
                cancelled += int(float(count))
            elif outcome[1] != "ok":
                noticed[f"{service.role} {outcome[1]}"] += int(float(count))
    return Counts(noticed, cancelled)


def count_unread(stack: Stack, before: Counts, reader: str, flips: Sequence[str]) -> int:
    """How many of a request's flips, each in the field named, their reader had no occasion to see:
    at most as many as answers were given up meanwhile. Waits for uploads that end after the text
    has. What the other side counts of the same frame does not stand in for it.
    """
    deadline = time.monotonic() + PATIENCE
    settled = time.monotonic() + SETTLING
    while True:
        now = read_counts(stack)
        fresh = now.noticed - before.noticed
        unseen = len(flips) - sum(fresh[name] for name in fresh if name.startswith(reader))
        if unseen <= 0:
            return 0
        if unseen <= now.cancelled - before.cancelled and time.monotonic() > settled:
            return unseen
        assert time.monotonic() < deadline, f"{unseen} not noticed of the bits in {flips}"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_every_field(
    kind: str, stack_of: StackOf, record_figure: Callable[[str, Figure], None]
) -> None:
    stack = stack_of(Plan())
    flipper = Flipper(kind, HEADER.keys() | {"checksum"} | all_fields(KINDS[kind][1]))
    ways: Sequence[str] = ("split", "cloud", "verified states")
    reader = "cloud" if kind in UP else "edge"
    stack.restore()
    expected = {way: stack.uninterrupted(wish(way, tokens=8)).told for way in ways}
    first = counts = read_counts(stack)
    stack.proxy.tamper = flipper
    refused: list[Told] = []
    repeated = 0
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
        if flipper.flipped:
            unread = count_unread(stack, counts, reader, flipper.flipped)
            flipper.settle(unread)
            repeated += bool(unread)
            counts = read_counts(stack)
    stack.proxy.tamper = None
    assert not flipper.left, "fields that were never met"
    record_figure("bits flipped", flipper.done)
    record_figure("requests refused", len(refused))
    record_figure("requests repeated", repeated)
    record_figure("counted", str(dict(counts.noticed - first.noticed)))
