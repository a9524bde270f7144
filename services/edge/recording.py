"""Traces of texts served, for whoever calibrates exits on traffic of their own (opt-in).

Of a text that an audit has judged to its end everything is known that its exits could be right or
wrong about: what each said that was asked, and what the full model chose. Audited texts are drawn
before they begin. Exits that were not asked, because one before them was sure, have said nothing; a
threshold of 1 asks all of them everywhere. A trace holds the tokens of the text, which is why its
file is readable by its owner only.
"""

import asyncio
import errno
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from shared.errors import Invalid
from shared.exits.calibration import HOTTEST, Text, text_of
from shared.exits.policy import Asked
from shared.exits.signals import FEATURES
from shared.exits.traces import BadTrace, ExitTrace, Trace, trace_line
from shared.protocol.messages import Sampling

# What texts recorded in service are said to come from.
SOURCE = "service"

# Names in a trace tell nobody whose text it was: they cannot be made from what is known elsewhere.
_SALT = secrets.token_bytes(32)

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Told what became of traces, for metrics."""

    def recorded(self, outcome: str) -> None:
        """A judged text was `written`, or why not: the file is `full`, writing `failed`, or the
        judgements and the text do not make a trace together (`unclear`).
        """


def kind_of(sampling: Sampling) -> Text | None:
    """Of which kind the trace of a text would be; None where tokens are chosen in a way nothing is
    calibrated on: narrowed, or with penalties.
    """
    text = text_of(sampling.temperature, sampling.repetition_penalty)
    drawn = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
    narrowed = text == "sampled" and drawn != (HOTTEST, 1.0, 0, 0.0)
    return None if narrowed or sampling.min_new_tokens else text


@dataclass(slots=True)
class Recording:
    """One text of a kind on its way to a trace: `others` are tokens the full model would have put
    in place of those that are there, by position. Texts of the same `document` are parts of one, as
    turns of a conversation are.
    """

    kind: Text
    document: str
    start: int = -1
    said: list[Sequence[Asked]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)

    def heard(self, position: int, asked: Sequence[Asked]) -> None:
        """Add what exits said of the token at a position, each position after the one before."""
        if self.start < 0:
            self.start = position
        self.said.append(tuple(asked))

    def add(self, token: int) -> None:
        """Add the token that was put there."""
        self.tokens.append(token)

    def judged(self, others: Mapping[int, int]) -> None:
        """Learn of places the full model has looked at."""
        self.others |= others

    def ends(self, token: int) -> None:
        """Learn what the full model would have put at the last place."""
        if token != self.tokens[-1]:
            self.others[self.start + len(self.tokens) - 1] = token

    @property
    def wrong(self) -> int:
        """At how many places of this text the full model would have put another token."""
        return sum(0 <= position - self.start < len(self.tokens) for position in self.others)

    def trace(self, fingerprint: str, layers: Sequence[int], exits_sha256: str | None) -> Trace:
        """A text that was judged to its end as a trace; raises BadTrace where it makes none."""
        places = enumerate(self.tokens, self.start)
        return Trace(
            model_fingerprint=fingerprint,
            document=blake2b(self.document.encode(), digest_size=8, key=_SALT).hexdigest(),
            source=SOURCE,
            kind=self.kind,
            whole=tuple(self.others.get(position, token) for position, token in places),
            exits={layer: self._said_by(layer) for layer in layers},
            exits_sha256=exits_sha256,
        )

    def _said_by(self, layer: int) -> ExitTrace:
        said = [next((each for each in asked if each.layer == layer), None) for asked in self.said]
        return ExitTrace(
            token=tuple(None if each is None else each.token for each in said),
            **{
                name: tuple(None if each is None else getattr(each.signals, name) for each in said)
                for name in FEATURES
            },
        )


@dataclass(slots=True)
class Recorder:
    """Appends traces to a file until it is full.

    Args:
        path: of JSON lines; made where there is none.
        max_bytes: the file's size, beyond which nothing is added.
        fingerprint: of the full model.
        layers: the exits this edge can ask, rising.
        exits_sha256: of their weights.
    """

    path: Path
    max_bytes: int
    fingerprint: str
    layers: Sequence[int]
    observer: Observer
    exits_sha256: str | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _failing: bool = False

    def open(self) -> None:
        """Make sure there is a file that can be written.

        Raises:
            Invalid: there cannot be.
        """
        try:
            self._append(b"")
        except OSError as error:
            raise Invalid(
                f"exit_traces: {self.path} cannot be written ({error.strerror})",
                field="exit_traces",
            ) from error

    async def keep(self, text: Recording, wrong: int) -> None:
        """Write a text that was judged to its end, at `wrong` places of which the full model would
        have put another token. What goes wrong is counted and does not concern the request.
        """
        outcome = "unclear"
        if text.wrong == wrong and len(text.said) == len(text.tokens):
            try:
                trace = text.trace(self.fingerprint, self.layers, self.exits_sha256)
            except BadTrace:
                outcome = "unclear"  # its message may quote the text
            else:
                outcome = await self._write(f"{trace_line(trace)}\n".encode())
        self.observer.recorded(outcome)

    async def _write(self, line: bytes) -> str:
        async with self._turn:
            try:
                fits = await asyncio.to_thread(self._append, line)
            except OSError as error:
                if not self._failing:
                    log.warning("exit traces cannot be written", extra={"reason": error.strerror})
                self._failing = True
                return "failed"
        self._failing = False
        return "written" if fits else "full"

    def _append(self, line: bytes) -> bool:
        """Add a line or nothing; whether there was room."""
        with open(self.path, "ab", buffering=0, opener=_private) as file:
            size = file.tell()
            if size + len(line) > self.max_bytes:
                return False
            if file.write(line) != len(line):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return True


def _private(path: str, flags: int) -> int:
    """Open a file that is its owner's alone, whatever it was before; follow no link to another."""
    handle = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)
    except OSError:
        os.close(handle)
        raise
    return handle
