"""One streamed generation as the command line reads it, from an edge that is a list of bytes."""

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from cli.edge import Answer, Token, generate
from cli.errors import CommandError

USAGE = {
    "prompt_tokens": 4,
    "completion_tokens": 2,
    "cached_tokens": 0,
    "tokens_by_source": {"exit:3": 1, "cloud": 1},
    "cloud_requests": 1,
    "cloud_passes": 1,
    "bytes_up": 900,
    "bytes_down": 80,
    "edge_compute_seconds": 0.2,
    "cloud_compute_seconds": 0.1,
    "network_seconds": 0.05,
}
DETAILS = {
    "finish_reason": "length",
    "generated_tokens": 2,
    "seed": 0,
    "exact": False,
    "degraded": False,
    "tokens": [],
    "usage": USAGE,
}
KEPT = {"id": 5, "text": " was", "source": "exit:3", "confidence": 0.9}
ASKED = {"id": 7, "text": " a", "source": "cloud", "confidence": None}

Edge = Callable[[httpx.Request], httpx.Response]


def _event(token: object, text: str | None = None, details: object = None) -> bytes:
    event = {"token": token, "generated_text": text, "details": details}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _streams(*pieces: bytes) -> Edge:
    def body() -> Iterator[bytes]:
        yield from pieces

    return lambda _: httpx.Response(200, content=body())


def _ask(edge: Edge) -> list[Token | Answer]:
    with httpx.Client(transport=httpx.MockTransport(edge), base_url="http://edge") as client:
        return list(generate(client, "Once", {"mode": "collaborative"}))


def test_tokens_come_in_order_and_the_answer_comes_last() -> None:
    items = _ask(_streams(_event(KEPT), _event(ASKED, " was a", DETAILS)))
    assert [(t.text, t.source) for t in items if isinstance(t, Token)] == [
        (" was", "exit:3"),
        (" a", "cloud"),
    ]
    answer = items[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.usage.cloud_requests, answer.usage.bytes_up) == (" was a", 1, 900)


def test_events_cut_anywhere_by_the_network_are_the_same_events() -> None:
    whole = b": still here\n\n" + _event(KEPT) + _event(ASKED, " was a", DETAILS)
    for cut in range(1, len(whole), 7):
        tokens = [t for t in _ask(_streams(whole[:cut], whole[cut:])) if isinstance(t, Token)]
        assert [token.id for token in tokens] == [5, 7]


def test_the_request_asks_for_a_stream_with_details() -> None:
    seen: list[dict[str, object]] = []

    def edge(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return _streams(_event(ASKED, "", DETAILS))(request)

    _ask(edge)
    parameters = {"mode": "collaborative", "details": True}
    assert seen == [{"inputs": "Once", "parameters": parameters, "stream": True}]


def _refuses(_: httpx.Request) -> httpx.Response:
    return httpx.Response(422, json={"error": "parameters.threshold must be at most 1"})


def _is_a_proxy(_: httpx.Request) -> httpx.Response:
    return httpx.Response(502, text="bad gateway")


def _is_absent(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def _hangs(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("no byte for 60 s", request=request)


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        (_refuses, r"refused \(422\): parameters.threshold must be at most 1"),
        (_is_a_proxy, r"refused \(502\): bad gateway"),
        (_is_absent, r"no edge answers at http://edge.*tandem run"),
        (_hangs, r"connection to http://edge.* failed: no byte for 60 s"),
        (_streams(_event(KEPT), b'data: {"error": "cloud lost"}\n\n'), "broke off: cloud lost"),
        (_streams(_event(KEPT)), "without its last event"),
        (_streams(b"data: <html>\n\n"), "no generation"),
        (_streams(_event({"id": "x"})), "no generation"),
    ],
)
def test_whatever_goes_wrong_is_said_in_one_sentence(edge: Edge, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        _ask(edge)
