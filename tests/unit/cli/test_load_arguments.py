"""What a person gives the load generator: edges, prompts, modes; and what is said of mistakes."""

import io
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from cli.errors import CommandError
from cli.load import plan
from cli.load.report import report, table
from cli.load.targets import Target, own_names, targets, wait_ready


def test_edges_are_named_by_their_address_or_as_asked() -> None:
    found = targets(["http://10.0.0.1:8000", "berlin=https://b.example/x?a=b"], discover=False)
    assert [each.name for each in found] == ["10.0.0.1:8000", "berlin"]
    assert found[1].url == "https://b.example/x?a=b"


def test_every_address_behind_a_name_is_an_edge() -> None:
    (found,) = targets(["http://localhost:8000"], discover=True)
    assert found == Target("127.0.0.1:8000", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["localhost:8000"], "not an address like"),
        (["a=ftp://x"], "not an address like"),
        (["http://"], "not an address like"),
        (["a=http://x", "a=http://y"], "two edges are called a"),
    ],
)
def test_what_is_no_edge_is_said(given: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        targets(given, discover=False)


def test_an_edge_cannot_be_named_and_discovered() -> None:
    with pytest.raises(CommandError, match="go by their addresses"):
        targets(["a=http://localhost:8000"], discover=True)


@pytest.mark.parametrize("said", [{"cloud": "lost"}, {"name": 7}, ["?"]])
async def test_the_table_says_what_edges_call_themselves_where_they_say_it(said: object) -> None:
    answers = {"a": {"name": "shop-[red]"}, "b": said}

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answers[request.url.host])

    transport = httpx.MockTransport(answer)
    clients = [httpx.AsyncClient(transport=transport, base_url=f"http://{host}") for host in "ab"]
    found = [Target("10.0.0.1:8000", "http://a"), Target("10.0.0.2:8000", "http://b")]
    named = await own_names(found, clients)
    assert named == {"10.0.0.1:8000": "shop-[red]"}
    told = report([], [each.name for each in found], began=0, window=1, started="", load={})
    shown = io.StringIO()
    Console(file=shown, width=160).print(table(told, named))
    assert "│ shop-[red] " in shown.getvalue()
    assert "│ 10.0.0.1:8000 " in shown.getvalue()
    assert list(told.json()["edges"]) == ["10.0.0.1:8000", "10.0.0.2:8000"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"prompt": "a"}\nb\n', r"line 2: not a JSON object"),
        ('{"text": "a"}\n', r"line 1: not a JSON object with a"),
        ('{"prompt": ""}\n', r"line 1: its \"prompt\" is no text"),
        ('{"prompt": "\\ud83d"}\n', r"line 1: its \"prompt\" is no text"),
        ("\n\n", r"holds no prompt"),
    ],
)
def test_a_prompt_file_that_is_none_is_said_with_the_line(
    lines: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(lines)
    with pytest.raises(CommandError, match=message):
        plan.read_prompts(file)
    with pytest.raises(CommandError, match="cannot be read"):
        plan.read_prompts(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "given", [["fast"], ["cloud=x"], ["cloud=0"], ["cloud=inf"], ["cloud", "cloud"]]
)
def test_a_mode_or_weight_that_is_none_is_said(given: list[str]) -> None:
    with pytest.raises(CommandError, match=given[0]):
        plan.read_modes(given)


async def test_an_edge_that_never_gets_ready_is_named_with_what_it_said() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"cloud": "lost"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://e") as one:
        await wait_ready([one], seconds=1, with_cloud=False)
        with pytest.raises(CommandError, match="HTTP 200, cloud lost"):
            await wait_ready([one], seconds=0.1, with_cloud=True)
