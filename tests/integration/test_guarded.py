"""Connections as the services serve them, around a small application: who waits is told when its
client is gone, and who comes when all is in use is told so.
"""

import asyncio
import time
from contextlib import closing

from starlette.types import Receive, Scope, Send

from shared.web.connections import PATIENCE_SECONDS, Limits
from tests.support.apps import PATIENCE
from tests.support.raw_client import connect, say
from tests.support.sockets import guarded

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"


class Application:
    """Answers `/wait` when it is told to, `/pour` without end, and notes who is gone."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gone: list[str] = []
        self.poured = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        self.begun.append(path)
        await receive()
        leaving = asyncio.create_task(self._left(path, receive))
        if path.startswith("/wait"):
            await leaving
            return
        headers = [] if path == "/pour" else [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while path == "/pour" and not leaving.done():
            self.poured += 65536
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
        leaving.cancel()

    async def _left(self, path: str, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.append(path)


def _until_gone(app: Application, *paths: str) -> float:
    began = time.monotonic()
    while sorted(app.gone) != sorted(paths):
        assert time.monotonic() - began < PATIENCE, app.gone
        time.sleep(0.01)
    return time.monotonic() - began


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    app = Application()
    with guarded(app, None, Limits(9, 0, 5, 5, 1)) as port, closing(connect(port)) as deaf:
        deaf.sendall(GET % b"pour")
        assert 0.5 < _until_gone(app, "/pour") < 10
        assert app.poured < 64 * 1024**2, "what is not read is not made either"


def test_an_answer_that_is_read_by_the_byte_is_given_up() -> None:
    app = Application()
    with (
        guarded(app, None, Limits(9, 0, 5, 5, 1)) as port,
        closing(connect(port, receive_buffer=4096)) as slow,
    ):
        slow.sendall(GET % b"pour")
        deadline = time.monotonic() + PATIENCE
        while not app.gone:  # the kernel sees it read
            assert time.monotonic() < deadline
            slow.recv(512)
            time.sleep(0.02)
    assert app.gone == ["/pour"]


def test_of_requests_sent_at_once_each_learns_that_the_client_is_gone() -> None:
    app = Application()
    with guarded(app, None, Limits(9, 0, 5, 5, 5)) as port:
        with closing(connect(port)) as client:
            client.sendall(GET % b"wait/1" + GET % b"wait/2")
            while not app.begun:
                time.sleep(0.01)
        _until_gone(app, "/wait/1")
    assert app.begun == ["/wait/1"]


def test_who_comes_when_all_is_in_use_is_told_so_and_idle_ones_give_way() -> None:
    app = Application()
    with guarded(app, None, Limits(2, 0, 5, 5, 5)) as port:
        with closing(connect(port)) as busy, closing(connect(port)) as idle:
            busy.sendall(GET % b"wait")
            idle.sendall(GET % b"soon")
            assert idle.recv(999).startswith(b"HTTP/1.1 200")
            with closing(connect(port)) as newer:
                newer.sendall(GET % b"wait/too")
                assert idle.recv(999) == b"", "it gives way"
                while len(app.begun) < 3:
                    time.sleep(0.01)
                refused = say(port, GET % b"soon")
            assert refused.statuses == [503]
            assert b"\r\nretry-after: 1\r\n" in refused.answers
            assert refused.body["error_type"] == "overloaded"
        _until_gone(app, "/wait", "/wait/too")


def test_a_half_sent_head_gives_way_after_a_moment() -> None:
    limits = Limits(1, 0, 60, 5, 5)
    with guarded(Application(), None, limits) as port, closing(connect(port)) as half:
        half.sendall(b"GET /soon HTTP/1.1\r\n")
        time.sleep(PATIENCE_SECONDS + 0.3)
        closing_get = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        # Its moment begins when it is taken in, which a busy machine does late.
        deadline = time.monotonic() + 30
        while (heard := say(port, closing_get % b"soon")).statuses == [503]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert heard.statuses == [200]
        assert half.recv(999) == b""
