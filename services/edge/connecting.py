"""The edge's way to the cloud, put together for `main` out of its settings: connections, TLS,
replicas, retries, and the probe that looks after them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from services.edge.cloud_client import CloudClient
from services.edge.cloud_side import CloudSide
from services.edge.link import Link
from services.edge.probe import Probe
from services.edge.replicas import Replica, Replicas, addresses
from services.edge.route import RetryBudget
from services.edge.settings import Settings
from services.edge.transport import PooledTransport
from shared.access import SentKey
from shared.model import Manifest
from shared.runtime.background import Background
from shared.runtime.breaker import Breaker
from shared.runtime.lifecycle import LAST_SECONDS, Lifecycle
from shared.web.tls import Renewed, client_tls

# How long an idle connection to the cloud is kept: a new one costs a round trip. Shorter than the
# cloud keeps its side (`serving.KEEP_ALIVE_SECONDS`), so that no request meets one being closed.
IDLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cloud:
    """The way to the cloud with the connection pool beneath it."""

    side: CloudSide
    http: httpx.AsyncClient
    pool: PooledTransport | None

    def cut_off(self, replica: Replica) -> None:
        """End what waits for a replica; whoever waits goes on elsewhere."""
        if self.pool is not None:
            self.pool.cut_off(replica.address or replica.url.host, replica.url)


def connect(settings: Settings, transport: httpx.AsyncBaseTransport | None) -> Cloud | None:
    """What leads to the cloud the settings name, if they do; `transport` stands in for the
    network in tests.
    """
    if not settings.cloud_url:
        return None
    # Each session may hold an upload and a need at once, and each keeps its connection; besides as
    # many requests as usual there may be as many emergencies.
    connections = 4 * settings.max_requests + 1
    limits = httpx.Limits(
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=IDLE_SECONDS,
    )
    pool, tls = None, _cloud_tls(settings)
    if transport is None and not any(map(_proxied, settings.cloud_urls)):
        transport = pool = PooledTransport(limits, tls.context if tls is not None else None)
    http = httpx.AsyncClient(
        base_url=settings.cloud_urls[0],
        transport=transport,
        verify=tls.context() if tls is not None else True,
        timeout=httpx.Timeout(
            settings.cloud_timeout_seconds, connect=settings.connect_timeout_seconds
        ),
        limits=limits,
    )
    pauses = (settings.first_pause_seconds, settings.longest_pause_seconds)
    replicas = Replicas(
        [httpx.URL(url) for url in settings.cloud_urls],
        breaker=lambda: Breaker(*pauses),
        resolve=addresses if pool is not None else None,
    )
    key = SentKey(settings.cloud_key_file) if settings.cloud_key_file else None
    client = CloudClient(http, limit=settings.max_report_bytes, authorization=key)
    budget = RetryBudget(2.0 * settings.max_requests)
    side = CloudSide(client, Link(*pauses), Background(), replicas, budget, settings.retry_seconds)
    return Cloud(side, http, pool)


def _cloud_tls(settings: Settings) -> Renewed | None:
    if not any(url.startswith("https:") for url in settings.cloud_urls):
        return None
    names = settings.cloud_ca_file, settings.cloud_certificate_file
    ca, certificate = (Path(name) if name else None for name in names)
    key = settings.cloud_certificate_key_file
    try:
        return client_tls(
            ca, certificate, Path(key) if key else None, system=httpx.create_ssl_context
        )
    except ValueError as error:
        raise SystemExit(f"cannot start: {error}") from error


def _proxied(url: str) -> bool:
    """Whether the environment sends this address through a proxy, which then finds the cloud."""
    where = urlsplit(url)
    proxies = getproxies()
    return bool({where.scheme, "all"} & set(proxies)) and not proxy_bypass(where.hostname or "")


@asynccontextmanager
async def connected(
    cloud: Cloud, manifest: Manifest, settings: Settings, lifecycle: Lifecycle
) -> AsyncIterator[None]:
    """Probe the cloud while the service lives; on the way out, let goodbyes finish before the
    pool closes.
    """
    side = cloud.side
    probe = Probe(
        side.client, side.link, side.replicas, manifest, settings.probe_seconds, cloud.cut_off
    )
    async with cloud.http:
        looking = asyncio.create_task(probe.run())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
            await side.background.drain(lifecycle.seconds_left + LAST_SECONDS)
