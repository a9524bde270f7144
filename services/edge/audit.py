"""Knowing in service how often kept tokens are not the full model's.

Kept tokens before an offload the cloud judges by the way. Of requests that a draw has chosen before
they ran, the rest is judged too: when the text is finished, one more block asks for the token at
its last place, and the pass that chooses it judges all that were kept before. Nobody waits for
that, and it gives way to everything: there is one at a time, none while the cloud has some works
waiting or this edge is about to end, and it is not tried twice. What it costs is no part of the
request's account. What was learnt goes into the estimate, and to the controller of the target the
request was served for. See decisions/0017.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from services.edge.cloud_client import Traffic
from services.edge.policy import Rules
from services.edge.recording import Recorder, Recording, kind_of
from services.edge.uplink import Uplink
from shared.errors import CloudLost, TandemError
from shared.exits.audit import Audit, Audited
from shared.exits.calibration import Text, text_of
from shared.exits.controller import Controller
from shared.exits.policy import Asked
from shared.protocol.messages import Report, Want
from shared.runtime.lifecycle import Lifecycle

# What the cloud may take for a judgement, its waiting included.
LONGEST_SECONDS = 5.0
# Works that waited in the cloud at its last report, from which on it has better to do.
MOST_QUEUED = 4


class Observer(Protocol):
    """Told what audits do, for metrics."""

    def audited(self, outcome: str, count: int) -> None:
        """A chosen request's tail was `judged`, or why not: `dropped`, `late`, `failed`; the bytes
        that took.
        """

    def ended(self, request: Audited) -> None:
        """A request was taken into the estimate."""

    def promised(self, text: Text, target: float, estimate: Callable[[str], float]) -> None:
        """There is an estimate of a target's requests now: its `value`, `low`, `high`."""

    def served(self, text: Text, target: float, tokens: int) -> None:
        """So many tokens were served for a target."""


@dataclass(slots=True)
class Auditor:
    """Keeps the estimates of an edge: of all its requests, and of those for each target and
    way of choosing tokens.

    Args:
        share: probability with which a request is chosen.
        controllers: hold targets of requests that have one, each by itself: by how tokens are
            chosen, and by target.
        draw: a number in [0, 1), uniform, of which the requests know nothing.
        recorder: keeps what was judged to its end, if anybody wants it.
    """

    share: float
    lifecycle: Lifecycle
    observer: Observer
    controllers: dict[tuple[Text, float], Controller] = field(default_factory=dict)
    estimate: Audit = field(default_factory=Audit)
    promised: dict[tuple[Text, float], Audit] = field(default_factory=dict)
    draw: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)
    recorder: Recorder | None = None
    _busy: bool = False

    def watch(self, uplink: Uplink | None, rules: Rules) -> "Auditing | None":
        """Count a request that is about to run, and decide whether it is chosen. None of a mode
        that keeps nothing; nor an emergency, whose audit would overtake others too; nor one whose
        kept tokens are repaired.
        """
        if uplink is None or rules.mode != "collaborative" or rules.most_held:
            return None
        if uplink.chain.opening.priority == "emergency":
            return None
        chosen = self.draw() < self.share
        auditing = Auditing(self, uplink, chosen=chosen, target=rules.target, unmoved=rules.unmoved)
        kind = kind_of(uplink.chain.opening.sampling)
        if auditing.chosen and self.recorder is not None and kind is not None:
            auditing.recording = Recording(kind, uplink.route.key)
        uplink.closing = auditing.end
        return auditing

    def take(
        self, request: Audited, target: float | None, text: Text | None, *, unmoved: bool = False
    ) -> None:
        """Take in a request that has ended: what target it was for, how its tokens were chosen, and
        whether its thresholds stood still.
        """
        self.estimate.take(request)
        if target is not None and text is not None:
            self._promised(text, target).take(request)
            self.observer.served(text, target, request.tokens)
            if not unmoved:
                self._controller(text, target).take(request, target)
        self.observer.ended(request)

    def level(self, text: Text, target: float) -> float:
        """The level whose thresholds hold a calibrated target on this traffic."""
        return self._controller(text, target).level(target)

    def _controller(self, text: Text, target: float) -> Controller:
        # As many as a bundle has calibrated targets.
        return self.controllers.setdefault((text, target), Controller())

    def _promised(self, text: Text, target: float) -> Audit:
        if (text, target) not in self.promised:
            audit = self.promised[text, target] = Audit()
            self.observer.promised(text, target, partial(_bound, audit))
        return self.promised[text, target]

    def bound(self, name: str) -> float:
        """`value`, `low` or `high` of the estimate; not a number before there is one."""
        return _bound(self.estimate, name)

    def may_judge(self, auditing: "Auditing") -> bool:
        """Whether there is room for one more judgement now."""
        return not (self._busy or self.lifecycle.draining or auditing.in_the_way)

    async def judge(self, auditing: "Auditing") -> int | None:
        """Have a finished text's tail judged; return how many of its tokens are wrong, or None."""
        if not self.may_judge(auditing):
            self.observer.audited("dropped", 0)
            return None
        self._busy, outcome, traffic = True, "failed", Traffic()
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                wrong = await auditing.ask(traffic)
            outcome = "judged"
        except TimeoutError:
            outcome = "late"
            return None
        except TandemError:
            # Told by its outcome: the link is judged by requests somebody waits for.
            return None
        else:
            return wrong
        finally:
            self._busy = False
            self.observer.audited(outcome, traffic.bytes_up + traffic.bytes_down)


@dataclass(slots=True)
class Auditing:
    """One request as the audit sees it.

    Attributes:
        judged: kept tokens before the last one that the cloud chose.
        tail: those after it.
        counts: the text is what the exits and the cloud made of it, nothing stood in for either.
        recording: what a trace of it needs, if there is to be one.
    """

    auditor: Auditor
    uplink: Uplink
    chosen: bool
    target: float | None
    unmoved: bool = False
    tokens: int = 0
    judged: int = 0
    tail: int = 0
    last: int = -1
    counts: bool = True
    recording: Recording | None = None

    def heard(self, position: int, asked: Sequence[Asked]) -> None:
        """Take in what exits said of the token at a position."""
        if self.recording is not None:
            self.recording.heard(position, asked)

    def add(self, token: int, source: str) -> None:
        """Count a token of the text."""
        self.tokens += 1
        self.last = token
        if self.recording is not None:
            self.recording.add(token)
        if source == "cloud":
            self.judged, self.tail = self.judged + self.tail, 0
        elif source == "fallback":
            self.counts = False
        else:
            self.tail += 1

    async def end(self) -> None:
        """Take the finished text in, its tail judged if it was chosen."""
        spent = self.uplink.spent
        # Of a session that a replica lost on the way, not everything told may be of this text.
        if not self.counts or spent.judged != self.judged:
            return
        wrong: int | None = None
        if self.chosen:
            wrong = await self.auditor.judge(self) if self.tail else 0
        request = Audited(
            tokens=self.tokens,
            judged=self.judged,
            wrong=spent.disagreed,
            tail=self.tail,
            tail_wrong=wrong,
            share=self.auditor.share or 1.0,
        )
        sampling = self.uplink.chain.opening.sampling
        text = text_of(sampling.temperature, sampling.repetition_penalty)
        self.auditor.take(request, self.target, text, unmoved=self.unmoved)
        # Texts whose tail needs no judgement are not recorded more often than the others.
        if wrong is not None and (self.tail or self.auditor.may_judge(self)):
            await self._record(request.wrong + wrong)

    async def _record(self, wrong: int) -> None:
        recorder, recording = self.auditor.recorder, self.recording
        if recorder is not None and recording is not None:
            recording.judged(self.uplink.spent.others)
            await recorder.keep(recording, wrong)

    @property
    def in_the_way(self) -> bool:
        """Whether the cloud is lost or has better to do."""
        uplink = self.uplink
        pressed = uplink.spent.queued >= MOST_QUEUED or uplink.route.better_elsewhere
        return pressed or not uplink.link.usable

    async def ask(self, traffic: Traffic) -> int:
        """Return how many of the tail's tokens the full model would have chosen otherwise.

        Raises:
            CloudLost: there is no answer, or one that does not fit the text.
        """
        chain = self.uplink.chain
        report = await self._post(traffic)
        if report.need_from is not None:
            chain.unsend(report.need_from)
            report = await self._post(traffic)
        chosen = chain.next_tokens(report)
        before = report.disagreed - self.uplink.spent.disagreed
        if not chosen or report.judged != self.judged + self.tail - 1 or before < 0:
            raise CloudLost("the cloud did not judge the text asked for", reason="malformed")
        if self.recording is not None:
            self.recording.judged({each.position: each.token for each in report.disagreements})
            self.recording.ends(chosen[0])
        return before + (chosen[0] != self.last)

    async def _post(self, traffic: Traffic) -> Report:
        uplink = self.uplink
        at = await uplink.route.here()
        block = uplink.chain.cut(want=Want.NOW, count=1)
        began, outcome = time.perf_counter(), "cancelled"
        try:
            report = await uplink.client.post([block], traffic, at, seconds=LONGEST_SECONDS)
            uplink.chain.hear(report)
            outcome = "ok"
            return report
        except TandemError as error:
            outcome = error.reason if isinstance(error, CloudLost) else error.code
            raise
        finally:
            uplink.observer.requested("audit", outcome, time.perf_counter() - began)


def _bound(audit: Audit, name: str) -> float:
    estimate = audit.estimate()
    return math.nan if estimate is None else float(getattr(estimate, name))
