"""Looks at the replicas' manifests from time to time: whether they are there, and whether they fit
this edge.

The requests themselves notice a lost replica first, unless it says nothing at all; the probe
notices that too, and one that is back, or was exchanged.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from services.edge.cloud_client import CloudClient
from services.edge.link import Link
from services.edge.refusals import LOCKED_OUT
from services.edge.replicas import Replica, Replicas
from shared.errors import CloudLost, Mismatch, TandemError
from shared.model import Manifest
from shared.protocol.version import PROTOCOL_VERSION

_log = logging.getLogger(__name__)

# A look takes at least so long before it counts as unanswered: a busy cloud is no lost one.
LEAST_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class Probe:
    """Keeps `link` and `replicas` informed about the cloud behind `client`.

    Args:
        seconds: between looks, and how long one may take.
        cut_off: ends what waits for a replica that answers nothing.
    """

    client: CloudClient
    link: Link
    replicas: Replicas
    manifest: Manifest
    seconds: float
    cut_off: Callable[[Replica], None] = lambda _: None
    _turn: int = field(default=0)
    _told: str = ""

    async def run(self) -> None:
        """Look for as long as the service lives."""
        while True:
            await self.look()
            await asyncio.sleep(self.seconds)

    async def look(self) -> None:
        """Look once, and write what was found into replicas and link."""
        try:
            await self.replicas.refresh()
        except httpx.ConnectError:
            self._lost("refused")
            return
        looked = self._due()
        await asyncio.gather(*(self._look_at(each) for each in looked))
        known = self.replicas.known
        if all(each.unfit is not None for each in known):
            mine = [each for each in known if not each.locked_out] or known
            self.link.refused(mine[0].unfit or "", locked_out=mine[0].locked_out)
        elif not self.replicas.serving:
            failures = [each.breaker.last_failure for each in known if each.breaker.failures]
            self._lost(failures[0] or "refused")

    def _due(self) -> Sequence[Replica]:
        """Those that serve sessions of this edge, those that may be back, and one more in turn: a
        fleet of edges that all look at all replicas would be a load of its own.
        """
        known = self.replicas.known
        self._turn = (self._turn + 1) % len(known)
        return [
            each
            for place, each in enumerate(known)
            if place == self._turn
            or each.sessions
            or each.leaving
            or each.unfit is not None
            or (not each.up and each.breaker.rested)
        ]

    async def _look_at(self, replica: Replica) -> None:
        began, patience = time.perf_counter(), max(self.seconds, LEAST_PATIENCE_SECONDS)
        try:
            theirs = await self._manifest(replica, patience)
            check_fit(self.manifest, theirs)
        except Mismatch as error:
            replica.refuses(error.message)
        except TandemError as error:
            reason = error.reason if isinstance(error, CloudLost) else error.code
            if reason in LOCKED_OUT:
                replica.refuses(error.message, locked_out=True)
                return
            if reason == "limited":
                # It is there, and this edge's sessions go on as they may.
                replica.answered()
                return
            replica.lost(reason)
            self._tell(error.message if reason == "tls" else "")
            if reason == "timeout":
                self.cut_off(replica)
        else:
            replica.fits()
            replica.answered()
            if theirs.get("draining") is True:
                replica.leaves()
            else:
                replica.stays()
            self.link.welcomed(str(theirs.get("compute_format")), _modes(theirs))
            self.link.succeeded(time.perf_counter() - began)

    async def _manifest(self, replica: Replica, patience: float) -> dict[str, object]:
        """Look again at once where sessions wait for a replica that says nothing: to take it for
        lost moves all of them.
        """
        try:
            return await self.client.manifest(replica, seconds=patience)
        except CloudLost as error:
            if error.reason != "timeout" or not replica.sessions or not replica.up:
                raise
            return await self.client.manifest(replica, seconds=patience)

    def _tell(self, problem: str) -> None:
        """Log what only an operator can put right, once."""
        if problem and problem != self._told:
            _log.warning(problem)
        self._told = problem

    def _lost(self, reason: str) -> None:
        if self.link.up:
            self.link.failed(reason)


def _modes(theirs: Mapping[str, Any]) -> tuple[str, ...]:
    modes = theirs.get("modes")
    return tuple(map(str, modes)) if isinstance(modes, list) else ()


def check_fit(ours: Manifest, theirs: Mapping[str, Any]) -> None:
    """Compare an edge bundle with a cloud's manifest.

    Raises:
        Mismatch: naming every difference that keeps them from working together.
    """
    differences: dict[str, tuple[object, object]] = {
        name: (mine, theirs.get(key))
        for name, key, mine in (
            ("protocol version", "protocol_version", PROTOCOL_VERSION),
            ("model fingerprint", "fingerprint", ours.fingerprint),
            ("depth", "depth", ours.depth),
        )
        if theirs.get(key) != mine
    }
    span = theirs.get("span")
    start = span[0] if isinstance(span, list) and span and isinstance(span[0], int) else None
    if start is None or ours.split is None or ours.split < start:
        differences["split"] = (ours.split, f"layers from {start}")
    if differences:
        raise Mismatch(differences)
