"""Looks at the cloud's manifest from time to time: whether it is there, and whether it fits this
edge.

The requests themselves notice a lost cloud first; the probe notices that it is back, and a cloud
that was exchanged.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.edge.cloud_client import CloudClient
from services.edge.link import Link
from shared.errors import CloudLost, Mismatch, TandemError
from shared.model import Manifest
from shared.protocol.version import PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Probe:
    """Keeps `link` informed about the cloud behind `client`."""

    client: CloudClient
    link: Link
    manifest: Manifest
    seconds: float

    async def run(self) -> None:
        """Look for as long as the service lives."""
        while True:
            await self.look()
            await asyncio.sleep(self.seconds)

    async def look(self) -> None:
        """Look once, and write what was found into the link."""
        began = time.perf_counter()
        try:
            theirs = await self.client.manifest()
            check_fit(self.manifest, theirs)
        except Mismatch as error:
            self.link.refused(error.message)
        except TandemError as error:
            reason = error.reason if isinstance(error, CloudLost) else error.code
            if self.link.up:
                self.link.failed(reason)
        else:
            self.link.welcomed(str(theirs.get("compute_format")), _modes(theirs))
            self.link.succeeded(time.perf_counter() - began)


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
