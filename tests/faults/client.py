"""A client of the edge that notes when each token came, and takes an error as an answer."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from tests.support.apps import PATIENCE, Answer
from tests.support.wishes import Wish


@dataclass(slots=True)
class Told:
    """What a streamed request was answered with; `times` are seconds since it was sent."""

    status: int = 0
    tokens: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: dict[str, Any] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> list[int]:
        """The tokens' ids."""
        return [token["id"] for token in self.tokens]

    @property
    def sources(self) -> list[str]:
        """Where each token came from."""
        return [token["source"] for token in self.tokens]

    @property
    def stall(self) -> float:
        """The longest wait for a token, in seconds."""
        return max((b - a for a, b in pairwise([0.0, *self.times])), default=0.0)

    @property
    def answer(self) -> Answer:
        """As an answer that was not streamed has it."""
        return {"details": {"tokens": self.tokens}}


def tell(edge: str, wish: Wish, headers: Mapping[str, str] | None = None) -> Told:
    """Ask the edge at this URL for a stream and read it to its end, whatever that is."""
    told = Told()
    body = {"inputs": wish.prompt, "parameters": {"details": True, **wish.parameters}}
    began = time.monotonic()
    try:
        with (
            httpx.Client(base_url=edge, timeout=PATIENCE, headers=headers) as client,
            client.stream("POST", "/generate", json=body | {"stream": True}) as response,
        ):
            told.status, told.headers = response.status_code, response.headers
            if told.status != httpx.codes.OK:
                told.error = json.loads(response.read())
                return told
            for line in response.iter_lines():
                if line.startswith("data: "):
                    _take(told, json.loads(line.removeprefix("data: ")), began)
    except httpx.TransportError as error:
        told.error = {"error": str(error), "error_type": "transport"}
    return told


def _take(told: Told, event: dict[str, Any], began: float) -> None:
    if "error" in event:
        told.error = event
        return
    told.tokens.append(event["token"])
    told.times.append(time.monotonic() - began)
    told.details = event.get("details") or told.details
