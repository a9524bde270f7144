"""What both services log while they live: JSON lines that tell what happened and to which request,
and nothing of what was written.
"""

import json
from typing import Any

import httpx
import pytest

from tests.support.apps import PATIENCE
from tests.support.services import Service, Services, new_services

PROMPT = "Once there was a marmalade zeppelin"
WORDS = ("marmalade", "zeppelin")

# The services, an answer of theirs, and every piece of text there was.
Lived = tuple[Services, dict[str, Any], set[str]]


def lines(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def told(service: Service, message: str) -> list[dict[str, Any]]:
    return [line for line in lines(service) if line["message"] == message]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A pair that answered, lost its cloud, found it again and ended; the answer in `split`, and
    every piece of text that was made.
    """
    pair = new_services(
        tmp_path_factory.mktemp("logged"),
        name="edge-of-test",
        probe_seconds="3",
        first_pause_seconds="0.1",
    )
    try:
        pair.start()
        answer = _talk(pair)
        pair.cloud.kill()
        pair.edge.wait_until_ready("lost")
        pair.cloud.start()
        pair.edge.wait_until_ready("reachable")
    finally:
        codes = [service.stop() for service in (pair.edge, pair.cloud)]
    assert codes == [0, 0]
    return pair, answer, {*WORDS, answer["generated_text"].strip()}


def _talk(pair: Services) -> dict[str, Any]:
    headers = {"x-request-id": "request-1"}
    with httpx.Client(base_url=pair.edge.url, timeout=PATIENCE, headers=headers) as edge:
        asked = {"inputs": PROMPT, "parameters": {"mode": "split", "details": True}}
        answer = dict(edge.post("/generate", json=asked).json())
        endless = {"max_new_tokens": 1500, "min_new_tokens": 1500, "mode": "standalone"}
        long = {"inputs": PROMPT, "parameters": endless, "stream": True}
        with edge.stream("POST", "/generate", json=long) as stream:
            next(stream.iter_lines())
        refused = {"inputs": PROMPT, "parameters": {"max_new_tokens": 10**6}}
        assert edge.post("/generate", json=refused).status_code == 422
    return answer


@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_every_line_is_json_and_holds_nothing_of_what_was_written(role: str, lived: Lived) -> None:
    pair, _, texts = lived
    service: Service = getattr(pair, role)
    assert lines(service)
    text = service.log.read_text()
    assert not [word for word in texts if word in text]
    assert "color_message" not in text
    assert "session" not in text


@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_a_service_says_first_what_it_serves_and_where(role: str, lived: Lived) -> None:
    service: Service = getattr(lived[0], role)
    serving = told(service, "serving")[0]
    assert serving["address"] == service.url
    assert serving["threads"] == 1
    assert (serving["compute_format"], serving["device"]) == ("fp32", "cpu")
    assert len(serving["fingerprint"]) == 16
    assert serving["span"][1] <= serving["depth"]


def test_a_finished_request_is_one_line_with_its_id_and_cost(lived: Lived) -> None:
    pair, answer, _ = lived
    (line,) = told(pair.edge, "request finished")
    details = answer["details"]
    assert line["request_id"] == "request-1"
    assert (line["mode"], line["reason"]) == ("split", details["finish_reason"])
    assert line["tokens"] == details["generated_tokens"]
    assert line["tokens_by_source"] == details["usage"]["tokens_by_source"]
    assert line["degraded"] is False
    assert 0 < line["seconds"] < 30


def test_a_request_somebody_hung_up_on_is_one_line_with_the_reason(lived: Lived) -> None:
    (line,) = told(lived[0].edge, "request broke off")
    assert (line["mode"], line["reason"]) == ("standalone", "cancelled")
    assert 0 < line["tokens"] < 1500


def test_the_loss_of_the_cloud_and_its_return_are_each_one_line(lived: Lived) -> None:
    edge = lived[0].edge
    changes = [line["message"] for line in lines(edge) if "the cloud is" in line["message"]]
    # It may have looked before the cloud was up.
    assert changes[-3:-1] in (
        ["the cloud is reachable", "the cloud is lost"],
        ["the cloud is back", "the cloud is lost"],
    )
    assert changes[-1] == "the cloud is back"
    assert told(edge, "the cloud is lost")[-1]["reason"] in ("refused", "broken")
    assert told(edge, "the cloud is back")[-1]["lost_seconds"] > 0
