"""Whatever arrives at the edge is refused with a 4xx that names what is wrong and what may be."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.apps import PATIENCE, ask, edge_client
from tests.support.reference import text
from tests.support.services import Services

CONTEXT = 2048
BODY_LIMIT = 1024**2
LONG = "word " * 3000
MODES = "standalone, collaborative, verified, cloud, split"


def parameters(**given: Any) -> dict[str, Any]:
    return {"inputs": "Once", "parameters": given}


@pytest.fixture
def edge(services: Services) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=services.edge.url, timeout=PATIENCE) as client:
        yield client


def refused(response: httpx.Response) -> dict[str, Any]:
    """The body of a refusal: never a success, never a fault of the server."""
    assert 400 <= response.status_code < 500, (response.status_code, response.text)
    body: dict[str, Any] = response.json()
    assert isinstance(body["error"], str)
    assert isinstance(body["error_type"], str)
    return body


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        ({"inputs": ""}, "inputs", "at least 1 character"),
        ({}, "inputs", "text"),
        ({"inputs": 5}, "inputs", "text"),
        ({"inputs": None}, "inputs", "text"),
        ({"inputs": ["Once"]}, "inputs", "text"),
        ({"inputs": LONG}, "inputs", f"1 to {CONTEXT - 1}"),
        ({"inputs": "Once", "prompt": "Once"}, "prompt", "inputs, parameters, stream"),
        ({"inputs": "Once", "stream": "yes"}, "stream", "true or false"),
        ({"inputs": "Once", "parameters": 5}, "parameters", None),
        (parameters(best_of=2), "parameters.best_of", "max_new_tokens"),
        (parameters(max_new_tokens=0), "parameters.max_new_tokens", "1 to 131,072"),
        (parameters(max_new_tokens="9"), "parameters.max_new_tokens", "1 to 131,072"),
        (parameters(max_new_tokens=1.5), "parameters.max_new_tokens", "1 to 131,072"),
        (parameters(max_new_tokens=10**9), "parameters.max_new_tokens", "1 to 131,072"),
        (parameters(max_new_tokens=CONTEXT), "parameters.max_new_tokens", "1 to "),
        (parameters(min_new_tokens=-1), "parameters.min_new_tokens", "0 to 131,072"),
        (parameters(threshold=1.01), "parameters.threshold", "0 to 1"),
        (parameters(threshold=-0.01), "parameters.threshold", "0 to 1"),
        (parameters(threshold="high"), "parameters.threshold", "0 to 1"),
        (parameters(threshold=True), "parameters.threshold", "0 to 1"),
        (parameters(temperature=-1), "parameters.temperature", "0 to 100"),
        (parameters(top_p=0), "parameters.top_p", "above 0 to 1"),
        (parameters(top_p=1.5), "parameters.top_p", "above 0 to 1"),
        (parameters(top_k=0), "parameters.top_k", "1 to 1,000,000"),
        (parameters(min_p=2), "parameters.min_p", "0 to 1"),
        (parameters(repetition_penalty=0), "parameters.repetition_penalty", "above 0 to 100"),
        (parameters(seed=-1), "parameters.seed", "0 to"),
        (parameters(seed=2**64), "parameters.seed", "0 to"),
        (parameters(stop="end"), "parameters.stop", "a list of at most 16"),
        (parameters(stop=[""]), "parameters.stop.0", "1 to 256 characters"),
        (parameters(stop=["x" * 257]), "parameters.stop.0", "1 to 256 characters"),
        (parameters(stop=["x"] * 17), "parameters.stop", "a list of at most 16"),
        (parameters(verify="ids", mode="collaborative"), "parameters.verify", "mode verified"),
        (parameters(verify="states", mode="cloud"), "parameters.verify", "mode verified"),
        (parameters(repair=1), "parameters.repair", "true or false"),
        (parameters(repair=True, mode="cloud"), "parameters.repair", "mode collaborative"),
        (parameters(repair=True, mode="split"), "parameters.repair", "mode collaborative"),
        (parameters(repair=True, mode="verified"), "parameters.repair", "mode collaborative"),
        (parameters(repair=True, mode="standalone"), "parameters.repair", "mode collaborative"),
        (parameters(verify="text"), "parameters.verify", "states, ids"),
        (parameters(mode="nonsense"), "parameters.mode", MODES),
        (parameters(mode=3), "parameters.mode", MODES),
        (parameters(codec="int4"), "parameters.codec", "fp32, fp16, int8"),
        (parameters(on_cloud_loss="wait"), "parameters.on_cloud_loss", "degrade, error"),
        (parameters(details=1), "parameters.details", "true or false"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_may_hold(
    edge: httpx.Client, body: dict[str, Any], field: str, allowed: str | None
) -> None:
    for stream in ({}, {"stream": True}) if "stream" not in body else ({},):
        said = refused(edge.post("/generate", json=body | stream))
        assert said["field"] == field
        assert field in said["error"], said
        assert allowed is None or allowed in said["error"], said


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"not json",
        b'{"inputs": "\xff\xfe"}',
        b'{"inputs": "caf\xe9"}',
        b'"a text"',
        b"[]",
        b"null",
        b'{"inputs": "Once", "parameters": {"temperature": NaN}}',
        b'{"inputs": "Once", "parameters": {"threshold": Infinity}}',
        b"[" * 100_000,
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_a_body_that_is_no_request_is_refused(edge: httpx.Client, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    said = refused(edge.post("/generate", content=raw, headers=headers))
    assert said["field"]


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        ("inputs", r'{"inputs": "a lone \ud800 surrogate"}'),
        ("parameters.stop.0", r'{"inputs": "Once", "parameters": {"stop": ["\udfff"]}}'),
    ],
)
def test_a_lone_surrogate_is_refused(edge: httpx.Client, field: str, raw: str) -> None:
    headers = {"content-type": "application/json"}
    said = refused(edge.post("/generate", content=raw, headers=headers))
    assert said["field"] == field


def test_a_body_over_the_limit_is_refused_announced_or_not(edge: httpx.Client) -> None:
    body = json.dumps({"inputs": "x" * BODY_LIMIT}).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    for content in (body, chunks()):
        headers = {"content-type": "application/json"}
        response = edge.post("/generate", content=content, headers=headers)
        assert response.status_code == 413
        assert str(BODY_LIMIT) in refused(response)["error"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/msgpack", ""])
def test_a_body_of_another_type_is_refused(edge: httpx.Client, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    refused(edge.post("/generate", content=b'{"inputs": "Once"}', headers=headers))


def test_what_curl_sends_without_a_type_is_refused_with_the_type_to_send(
    edge: httpx.Client,
) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = edge.post("/generate", content=b'{"inputs": "Once"}', headers=headers)
    assert response.status_code == 415
    assert "send `Content-Type: application/json`" in refused(response)["error"]


def test_other_paths_and_methods_are_refused(edge: httpx.Client) -> None:
    assert refused(edge.get("/generate"))
    assert refused(edge.post("/nowhere"))


def test_the_longest_request_that_fits_is_served(edge: httpx.Client) -> None:
    """The edge of the range is inside it."""
    tokens = len(text().encode("Once"))
    fits, beyond = CONTEXT - tokens, CONTEXT - tokens + 1
    short = {"threshold": 0.0, "stop": [" "]}
    asked = parameters(max_new_tokens=fits, mode="collaborative", **short)
    assert edge.post("/generate", json=asked).status_code == 200
    said = refused(edge.post("/generate", json=parameters(max_new_tokens=beyond)))
    assert f"1 to {fits}" in said["error"]


@pytest.mark.parametrize("mode", ["collaborative", "verified", "cloud", "split"])
async def test_an_edge_without_a_cloud_serves_standalone_only(mode: str) -> None:
    async with edge_client("") as alone:
        said = refused(await alone.post("/generate", json=parameters(mode=mode)))
        assert said["field"] == "parameters.mode"
        assert "allowed: standalone" in said["error"]
        assert (await ask(alone, "Once", max_new_tokens=2))["details"]["mode"] == "standalone"
        assert (await alone.get("/readyz")).json()["modes"] == ["standalone"]
