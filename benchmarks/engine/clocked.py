"""`python -m benchmarks.engine.clocked edge|cloud`: a service that notes when what happened within
it, on the clock all processes of a machine share.

The services' own applications; clocks are put around their seams, as a profiler does. Notes are
kept in memory and written when the service is stopped: a line per span, name, begin and end in
seconds.
"""

import functools
import inspect
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Span = tuple[str, float, float]


@dataclass(slots=True)
class Clock:
    """Spans seen so far."""

    spans: list[Span] = field(default_factory=list)

    def around(self, owner: Any, method: str, name: str) -> None:
        """Note every call of `owner.method`, a function or a coroutine function, as `name`."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def called(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.spans.append((name, began, time.perf_counter()))

        @functools.wraps(inner)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return await inner(*args, **kwargs)
            finally:
                self.spans.append((name, began, time.perf_counter()))

        setattr(owner, method, awaited if inspect.iscoroutinefunction(inner) else called)

    def serve(self, service: Any) -> None:
        """Be a service, by its `main` module, with the clock around its requests."""
        create_app = service.create_app
        service.create_app = lambda *args: Clocked(create_app(*args), self)
        service.main()

    def write(self, path: Path) -> None:
        """Write what was seen."""
        path.write_text("".join(f"{json.dumps(span)}\n" for span in self.spans))


@dataclass(frozen=True, slots=True)
class Clocked:
    """An ASGI application: `served` is a request from its call to its last piece of body, and
    `event` a span without length where a piece of body was sent.
    """

    app: Any
    clock: Clock

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Serve one request."""
        began = time.perf_counter()

        async def noted(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                now = time.perf_counter()
                self.clock.spans.append((f"event {scope['path']}", now, now))
                if not message.get("more_body"):
                    self.clock.spans.append((f"served {scope['path']}", began, now))

        await self.app(scope, receive, noted)


def main(
    side: Literal["edge", "cloud"],
    *,
    core: Annotated[int, typer.Option(help="CPU to stay on.")],
    notes: Annotated[Path, typer.Option(help="File for the spans.")],
) -> None:
    """Serve until SIGTERM."""
    # The heavy imports come after: their threads stay on the core they are born on.
    os.sched_setaffinity(0, {core})
    clock = Clock()
    try:
        (_edge if side == "edge" else _cloud)(clock)
    finally:
        clock.write(notes)


def _edge(clock: Clock) -> None:
    from services.edge import cloud_client, main
    from services.edge.engine import EdgeEngine
    from shared.runtime.model_thread import ModelThread

    clock.around(cloud_client.CloudClient, "post", "post")
    clock.around(cloud_client, "encode", "pack")
    clock.around(cloud_client, "decode", "unpack")
    clock.around(EdgeEngine, "step", "step")
    clock.around(ModelThread, "run", "run")
    clock.serve(main)


def _cloud(clock: Clock) -> None:
    from services.cloud import main, routes
    from services.cloud.completion import Completion
    from services.cloud.engine import CloudEngine
    from shared.runtime.model_thread import ModelThread

    clock.around(Completion, "accept", "accept")
    clock.around(routes, "encode", "pack")
    clock.around(routes, "decode_blocks", "unpack")
    clock.around(CloudEngine, "step", "step")
    clock.around(ModelThread, "run", "run")
    clock.serve(main)


if __name__ == "__main__":
    typer.run(main)
