"""What users write, are answered and are known by stays between them and the services: planted
secrets are looked for in all that both services let out, at DEBUG, traced, in requests that succeed
and in requests that fail.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.edge.text import TextCodec
from shared.protocol.messages import Close
from shared.protocol.version import (
    HEADER_TIMEOUT,
    MEDIA_TYPE,
    PATH_BLOCKS,
    PATH_CLOSE,
    PATH_STREAM,
)
from shared.protocol.wire import encode
from tests.support import raising
from tests.support.apps import PATIENCE
from tests.support.collector import Collector, collecting
from tests.support.keys import written_keys
from tests.support.reference import bundles
from tests.support.services import Service, Services, free_port

WORD = "marmaladezeppelin"
PROMPT = f"Once there was a {WORD} and"
KEY, WRONG_KEY = "tk-planted-right-0123456789", "tk-planted-wrong-9876543210"
SESSION = "conversation-planted-4711"
PASSWORD, STORE_KEY = "redis-password-planted", "5ec2e7" * 10 + "abcd"
TRACES_TOKEN = "collector-token-planted"
NAMES = (WORD, KEY, WRONG_KEY, SESSION, PASSWORD, STORE_KEY, TRACES_TOKEN)
MODES = ("standalone", "collaborative", "split", "cloud", "verified")

# All a span may tell. Whoever adds a word says here that it quotes nothing.
ATTRIBUTES = re.compile(
    r"http\.request\.method|http\.route|http\.response\.status_code|error\.type"
    r"|server\.(address|port)|network\.peer\.address"
    r"|gen_ai\.(request\.model|operation\.name|provider\.name|usage\.(in|out)put_tokens"
    r"|response\.finish_reasons)"
    r"|tandem\.(mode|priority|outcome|degraded|operation|rows|bytes_up|bytes_down"
    r"|(queue|compute|edge_compute|cloud_compute|network)_seconds"
    r"|tokens\.(cloud|draft|fallback|exit:\d+))"
)


@dataclass(slots=True)
class Lived:
    """What there was to be kept, and what came out."""

    texts: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    out: dict[str, str] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)

    def found(self, text: str) -> list[str]:
        """Which of what was to be kept is in `text`: names, words that were made, ids in a row."""
        flat = text.replace("\\n", " ")
        found = [secret for secret in NAMES if secret in text]
        found += [piece for whole in self.texts for piece in _pieces(whole) if piece in flat]
        numbers = " ".join(re.findall(r"\d+", text))
        for ids in self.ids:
            runs = (" ".join(map(str, ids[at : at + 4])) for at in range(len(ids) - 3))
            found += [run for run in runs if f" {run} " in f" {numbers} "]
        return found


def _pieces(text: str) -> Iterator[str]:
    """Every three words in a row."""
    words = text.split()
    return (" ".join(words[at : at + 3]) for at in range(len(words) - 2))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("secrets")
    with collecting() as collector:
        pair = _pair(folder, f"{collector.url}?token={TRACES_TOKEN}")
        try:
            pair.start()
            yield _live(pair, collector)
        finally:
            pair.edge.abandon()
            pair.cloud.abandon()


def _pair(folder: Path, traces: str) -> Services:
    both = {"log_level": "DEBUG", "traces_url": traces}
    store = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    kept = {"store_url": store, "store_key": STORE_KEY, "max_body_bytes": "4000000"}
    cloud = Service("cloud", folder / "cloud.log", {**both, **kept}, launch=_raising)
    file = written_keys(folder / "keys.toml", {KEY: 'scopes = ["generate", "priority"]'})
    keys = {"keys_file": str(file), "without_key": "generate,metrics", "max_body_bytes": "100000"}
    paces = {"probe_seconds": "0.3", "first_pause_seconds": "0.1", "retry_seconds": "2"}
    reach = {"cloud_url": cloud.url, **paces}
    edge = Service("edge", folder / "edge.log", {**both, **keys, **reach}, launch=_raising)
    return Services(cloud, edge)


def _raising(role: str, environment: Any, log: Path) -> Any:
    return raising.launch(role, {**environment, raising.WORDS: f"{PROMPT} {KEY}"}, log)


def _live(pair: Services, collector: Collector) -> Lived:
    lived = Lived()
    lived.ids.append(list(TextCodec(bundles().edge).encode(PROMPT)))
    headers = {"authorization": f"Bearer {KEY}", "x-session-id": SESSION}
    with httpx.Client(base_url=pair.edge.url, timeout=PATIENCE, headers=headers) as edge:
        for mode in MODES:
            for stream in (False, True):
                _talk(edge, lived, mode, stream)
        _fail(edge, lived)
        _break(pair.cloud, lived)
        lived.out["metrics"] = pair.edge.metrics() + pair.cloud.metrics()
        assert pair.cloud.stop() == 0
        for mode in MODES:
            asked = {"inputs": PROMPT, "parameters": {"mode": mode, "max_new_tokens": 4}}
            _refused(lived, f"{mode} alone", edge.post("/generate", json=asked))
        lived.out["readyz"] = edge.get("/readyz").text
        lived.out["metrics later"] = pair.edge.metrics()
    assert pair.edge.stop() == 0
    lived.out["edge log"] = pair.edge.log.read_text()
    lived.out["cloud log"] = pair.cloud.log.read_text()
    spans = collector.of(None)
    lived.out["spans"] = "\n".join(each.said for each in spans)
    lived.attributes = {name for each in spans for name in each.attributes}
    return lived


def _talk(edge: httpx.Client, lived: Lived, mode: str, stream: bool) -> None:
    parameters = {"mode": mode, "details": True, "max_new_tokens": 24, "min_new_tokens": 24}
    body = {"inputs": PROMPT, "parameters": {**parameters, "seed": 3}, "stream": stream}
    answer = edge.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    whole = json.loads(answer.text.strip().split("data: ")[-1]) if stream else answer.json()
    lived.texts.append(whole["generated_text"])
    lived.ids.append([token["id"] for token in whole["details"]["tokens"]])


def _refused(lived: Lived, what: str, answer: httpx.Response) -> None:
    lived.refusals.append((what, "" if answer.status_code == 200 else answer.text))


def _fail(edge: httpx.Client, lived: Lived) -> None:
    """Requests that fail, with the secret where they are wrong."""
    for name in (
        *("max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"),
        *("repetition_penalty", "stop", "mode", "threshold", "codec", "repair", "verify"),
        *("on_cloud_loss", "priority", "details"),
    ):
        for wrong in (WORD, [WORD], {WORD: WORD}):
            asked = {"inputs": PROMPT, "parameters": {name: wrong}}
            _refused(lived, f"{name} {type(wrong)}", edge.post("/generate", json=asked))
    bodies: list[object] = [
        {"inputs": [PROMPT]},
        {"inputs": {"text": PROMPT}},
        {"inputs": PROMPT, "parameters": PROMPT},
        {"inputs": PROMPT, "stream": PROMPT},
        [PROMPT],
        PROMPT,
    ]
    for body in bodies:
        _refused(lived, str(type(body)), edge.post("/generate", json=body))
    as_json = {"content-type": "application/json"}
    for raw in (f'{{"inputs": "{PROMPT}"', f'"{PROMPT}"', PROMPT, f'{{"inputs": "{PROMPT}\xff"}}'):
        answer = edge.post("/generate", content=raw.encode("latin-1"), headers=as_json)
        _refused(lived, "no JSON", answer)
    _refused(lived, "form", edge.post("/generate", data={"inputs": PROMPT}))
    with suppress(httpx.TransportError):  # the refusal may meet the rest of the body
        answer = edge.post("/generate", json={"inputs": PROMPT * 10_000})
        _refused(lived, "oversize", answer)
    long = {"inputs": PROMPT * 1000}
    _refused(lived, "long", edge.post("/generate", json=long))
    # Of an unknown field its own sender is told the name; nobody else is.
    edge.post("/generate", json={"inputs": PROMPT, WORD: PROMPT})
    edge.post("/generate", json={"inputs": PROMPT, "parameters": {WORD: PROMPT}})
    asked = {"inputs": PROMPT, "parameters": {"priority": "emergency"}}
    wrong_key = {"authorization": f"Bearer {WRONG_KEY}"}
    _refused(lived, "wrong key", edge.post("/generate", json=asked, headers=wrong_key))
    odd_session = {"x-session-id": f"{SESSION} {SESSION}"}
    _refused(lived, "session", edge.post("/generate", json=asked, headers=odd_session))
    _refused(lived, "path", edge.get(f"/{WORD}?key={KEY}"))
    _refused(lived, "method", edge.put("/generate", json=asked))
    upgrade = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    upgrade["sec-websocket-key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    _refused(lived, "upgrade", edge.get("/generate", headers=upgrade))
    for seed in (raising.EDGE, raising.CLOUD):
        for mode in ("standalone", "collaborative", "split", "cloud", "verified"):
            for stream in (False, True):
                parameters = {"mode": mode, "seed": seed, "max_new_tokens": 4, "threshold": 1}
                wanted = {"inputs": PROMPT, "parameters": parameters, "stream": stream}
                # After an error nobody has foreseen the server ends the connection.
                headers = {"connection": "close"}
                answer = edge.post("/generate", json=wanted, headers=headers)
                _refused(lived, f"engine {mode}", answer)


def _break(cloud: Service, lived: Lived) -> None:
    """Frames that are damaged, or hold what they may not."""
    frame = encode(Close(session="a" * 32, revision=0))
    secret = f"{WORD}-{WORD}".ljust(32, "x")[:32].encode()
    frames = [
        b"",
        secret * 4,
        frame[:-3],
        frame[:20] + secret,
        frame.replace(b"a" * 32, secret),
        frame.replace(b"session", WORD.encode()[:7]),
        encode(Close(session=WORD, revision=0)),
    ]
    for path in (PATH_BLOCKS, PATH_STREAM, PATH_CLOSE):
        for accept in (MEDIA_TYPE, "application/json"):
            for each in frames:
                headers = {"content-type": MEDIA_TYPE, "accept": accept, HEADER_TIMEOUT: WORD}
                url = f"{cloud.url}{path}"
                answer = httpx.post(url, content=each, headers=headers, timeout=PATIENCE)
                _refused(lived, f"frame {path}", answer)
                del headers[HEADER_TIMEOUT]
                answer = httpx.post(url, content=each, headers=headers, timeout=PATIENCE)
                _refused(lived, f"frame {path}", answer)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "where", ["edge log", "cloud log", "metrics", "metrics later", "readyz", "spans"]
)
def test_nothing_of_a_request_is_in(where: str, lived: Lived) -> None:
    assert lived.out[where]
    assert lived.found(lived.out[where]) == []


def test_there_was_something_to_leak(lived: Lived) -> None:
    """The engines failed, on both sides, and were told of; spans came from both."""
    for log in ("edge log", "cloud log"):
        assert "__main__.Odd" in lived.out[log], lived.out[log][-3000:]
    assert "Task exception was never retrieved" in lived.out["edge log"]
    assert "a thread was ended by an error" in lived.out["edge log"]
    assert "an error nobody could be told of" in lived.out["edge log"]
    assert "tandem-edge" in lived.out["spans"]
    assert "tandem-cloud" in lived.out["spans"]
    assert len(lived.refusals) > 100
    assert min(map(len, lived.ids)) > 4


def test_no_answer_to_a_request_that_failed_quotes_it(lived: Lived) -> None:
    assert [(what, found) for what, body in lived.refusals if (found := lived.found(body))] == []


def test_logs_hold_no_bytes_and_no_sessions(lived: Lived) -> None:
    for log in ("edge log", "cloud log"):
        assert not re.search(r"\\\\x[0-9a-f]{2}", lived.out[log])
        assert not [line for line in lived.out[log].splitlines() if '"session' in line]
        for line in lived.out[log].splitlines():
            json.loads(line)


def test_spans_tell_what_is_listed_and_no_more(lived: Lived) -> None:
    assert [name for name in sorted(lived.attributes) if not ATTRIBUTES.fullmatch(name)] == []
