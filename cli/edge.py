"""The command line's view of the edge's public API: one streamed generation, read event by event.

It knows `POST /generate` and nothing of how tokens are made; terminals are beside it.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from cli.credential import headers_of
from cli.errors import CommandError

# A token may wait for a model that computes for seconds; the edge sends a comment every 10 s.
SILENCE_SECONDS = 60.0
CONNECT_SECONDS = 5.0


class Token(BaseModel):
    """One generated token, with where it was decided and how sure the exit was (0 to 1)."""

    id: int
    text: str
    source: str
    confidence: float | None = None


class Usage(BaseModel):
    """What one generation cost: bytes, seconds, tokens by source."""

    completion_tokens: int
    tokens_by_source: dict[str, int]
    cloud_requests: int
    bytes_up: int
    bytes_down: int
    edge_compute_seconds: float
    cloud_compute_seconds: float
    network_seconds: float


class Details(BaseModel):
    """What the edge says of a finished generation."""

    finish_reason: str
    exact: bool
    degraded: bool
    usage: Usage


class Answer(BaseModel):
    """The end of a generation: its whole text, its details, and the seconds it took from here."""

    text: str
    details: Details
    seconds: float

    @property
    def usage(self) -> Usage:
        return self.details.usage

    @property
    def tokens_per_second(self) -> float:
        return self.usage.completion_tokens / self.seconds if self.seconds > 0 else 0.0


def connect(url: str, key: str | None = None) -> httpx.Client:
    """A client of the edge at `url` that shows it `key`; close it with `with`."""
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    return httpx.Client(base_url=url, timeout=timeout, headers=headers_of(key), trust_env=False)


def exit_sources(client: httpx.Client) -> tuple[str, ...]:
    """The exits of the edge, as its tokens will name them; none where it does not say."""
    try:
        told = client.get("/readyz").json()
        return (f"exit:{told['split']}", f"exit:{told['edge_depth']}")
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ()


def generate(
    client: httpx.Client, inputs: str, parameters: Mapping[str, object]
) -> Iterator[Token | Answer]:
    """Yield the tokens as they arrive, and the answer as the last item.

    Raises:
        CommandError: the edge cannot be reached, refuses the request, breaks off, or answers
            something that is no generation.
    """
    body = {"inputs": inputs, "parameters": {**parameters, "details": True}, "stream": True}
    started = time.monotonic()
    try:
        with client.stream("POST", "/generate", json=body) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                raise CommandError(_refusal(response))
            for event in _events(response.iter_lines()):
                if "error" in event:
                    raise CommandError(f"the answer broke off: {event['error']}")
                if event.get("token") is not None:
                    yield Token.model_validate(event["token"])
                if event.get("details") is not None:
                    yield Answer(
                        text=event.get("generated_text") or "",
                        details=event["details"],
                        seconds=time.monotonic() - started,
                    )
                    return
    except httpx.ConnectError as error:
        raise CommandError(
            f"no edge answers at {client.base_url}: start one with `tandem run`"
        ) from error
    except httpx.HTTPError as error:
        raise CommandError(f"the connection to {client.base_url} failed: {error}") from error
    except (ValidationError, json.JSONDecodeError) as error:
        raise CommandError(f"{client.base_url} answered something that is no generation") from error
    raise CommandError("the answer ended without its last event: the edge was stopped")


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event; comments and other fields are passed over."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield json.loads("\n".join(data))
            data = []


def _refusal(response: httpx.Response) -> str:
    try:
        reason = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        reason = response.text.strip()[:300] or response.reason_phrase
    return f"the edge refused ({response.status_code}): {reason}"
