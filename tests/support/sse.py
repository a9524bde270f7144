"""Reads server-sent events as a client does: data, comments, and nothing else."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

Event = dict[str, Any]


def events_of(body: str) -> tuple[list[Event], list[str]]:
    """The events and the comments of a whole stream, which must hold nothing else."""
    blocks = body.split("\n\n")
    assert blocks.pop() == "", "the stream ends within an event"
    comments = [block for block in blocks if block.startswith(":")]
    rest = [block for block in blocks if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in rest), rest
    return [json.loads(block.removeprefix("data: ")) for block in rest], comments


async def streamed(
    client: httpx.AsyncClient,
    inputs: str,
    *,
    headers: Any = None,
    **parameters: Any,
) -> AsyncGenerator[Event]:
    """Ask for a stream and yield its events as they come; closing it hangs up."""
    body = {"inputs": inputs, "parameters": parameters, "stream": True}
    async with client.stream("POST", "/generate", json=body, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def all_events(client: httpx.AsyncClient, inputs: str, **parameters: Any) -> list[Event]:
    """Every event of a stream."""
    async with aclosing(streamed(client, inputs, **parameters)) as events:
        return [event async for event in events]
