"""A client over our transport and a server of raw bytes; neither may leave a thing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from services.edge.transport import PooledTransport
from tests.support.raw_server import RawServer, Script, raw_server, until

OnLoop = Callable[[Awaitable[None]], None]


@asynccontextmanager
async def talking(
    script: Script, limits: httpx.Limits | None = None, timeouts: httpx.Timeout | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, RawServer]]:
    """Whatever happens in the block, closing the client leaves no connection."""
    transport = PooledTransport(limits or httpx.Limits(max_connections=4, keepalive_expiry=60))
    async with raw_server(script) as server:
        async with httpx.AsyncClient(
            transport=transport, base_url=server.url, timeout=timeouts or httpx.Timeout(30)
        ) as client:
            yield client, server
        await until(lambda: server.open == 0)
