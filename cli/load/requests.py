"""One request to an edge, and what its user saw: when each token came, from where, how it ended.

It knows the stream of `POST /generate`; it does not know why a request is sent when it is.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from cli.credential import headers_of

# Nothing comes before the first token, which waits its turn where the edge is busy; later the edge
# sends a comment every 10 s.
SILENCE_SECONDS = 120.0
CONNECT_SECONDS = 5.0
# Cut off because somebody ended the load early: nobody's failure.
STOPPED = "stopped"
# Still under way when the load, and the grace after it, had ended.
UNFINISHED = "unfinished"


@dataclass(slots=True)
class Seen:
    """What became of one request; all times in seconds of this process's monotonic clock.

    `due` is when it should have been sent (latencies count from there), `sent` when it was.
    """

    edge: str
    mode: str
    due: float
    sent: float = 0.0
    token_times: list[float] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    ended: float | None = None
    error: str | None = None
    # What the edge, or this machine, said of a failure.
    said: str = ""
    degraded: bool = False
    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)


class BadStream(Exception):
    """The stream said that it failed, or ended without its last event; the text is the reason."""


def connect(url: str, key: str | None = None) -> httpx.AsyncClient:
    """A client of one edge that shows it `key`, with as many connections as the load needs."""
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=url, timeout=timeout, limits=limits, headers=headers_of(key), trust_env=False
    )


async def ask(
    client: httpx.AsyncClient, seen: Seen, inputs: str, parameters: Mapping[str, object]
) -> None:
    """Send one request and write into `seen` what comes of it; failures are counted, not raised."""
    seen.sent = time.monotonic()
    body = {"inputs": inputs, "parameters": {**parameters, "details": True}, "stream": True}
    try:
        async with client.stream("POST", "/generate", json=body) as response:
            if response.status_code != httpx.codes.OK:
                seen.error = f"http_{response.status_code}"
                seen.said = _said(await response.aread())
                return
            await _read(response.aiter_lines(), seen)
    except BadStream as error:
        seen.error = str(error)
    except httpx.ConnectError as error:
        seen.error, seen.said = "connect", str(error)
    except httpx.TimeoutException:
        seen.error = "timeout"
    except httpx.HTTPError:
        seen.error = "broken"
    finally:
        seen.ended = time.monotonic()


def _said(body: bytes) -> str:
    """The reason in a refusal's body."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


async def _read(lines: AsyncIterator[str], seen: Seen) -> None:
    async for line in lines:
        if not line.startswith("data:"):
            continue
        now = time.monotonic()
        try:
            event = json.loads(line.removeprefix("data:"))
            if "error" in event:
                seen.said = str(event["error"])
                raise BadStream(f"stream_{event.get('error_type', 'error')}")
            if event.get("token") is not None:
                seen.token_times.append(now)
                seen.sources[event["token"]["source"]] += 1
            if event.get("details") is not None:
                seen.degraded = bool(event["details"]["degraded"])
                seen.usage = dict(event["details"]["usage"])
                seen.text = str(event.get("generated_text") or "")
                return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadStream("not_a_generation") from error
    raise BadStream("stream_ended_early")
