"""How tokens look: sources can be told apart with colour and without."""

import io

import pytest
from rich.console import Console

from cli.edge import Answer, Details, Usage
from cli.terminal import TokenPrinter, cost_table, shares, size_of

TOKENS = [(" the", "exit:3"), (" cat", "exit:3"), (" sat", "exit:6"), (" on", "cloud")]


def _written(*, colour: bool) -> str:
    terminal = Console(
        file=io.StringIO(), force_terminal=colour, color_system="256" if colour else None, width=120
    )
    printer = TokenPrinter(terminal)
    printer.know_exits(("exit:3", "exit:6"))
    for text, source in TOKENS:
        printer.write(text, source)
    printer.end()
    terminal.print(printer.legend())
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_without_colour_a_mark_opens_each_run_of_one_source() -> None:
    assert _written(colour=False).splitlines()[0] == "¹ the cat² sat^ on"


def test_without_colour_the_legend_explains_every_mark() -> None:
    legend = _written(colour=False).splitlines()[1]
    assert all(
        f"{mark} {source}" in legend
        for mark, source in zip("¹²^", ("exit:3", "exit:6", "cloud"), strict=True)
    )


def test_with_colour_every_source_has_its_own_look_and_no_marks() -> None:
    line = _written(colour=True).splitlines()[0]
    looks = {text: line.partition(text)[0].rpartition("\x1b[")[2] for text, _ in TOKENS}
    assert looks[" the"] == looks[" cat"]
    assert len({looks[" the"], looks[" sat"], looks[" on"]}) == 3
    assert not set("¹²^") & set(line)


def test_an_exit_keeps_its_look_whichever_is_seen_first() -> None:
    printer = TokenPrinter(Console(file=io.StringIO()))
    printer.know_exits(("exit:6", "exit:12"))
    assert printer.look("exit:12") != printer.look("exit:6")
    before = printer.look("exit:12")
    printer.write("x", "exit:6")
    assert printer.look("exit:12") == before


@pytest.fixture
def answer() -> Answer:
    usage = Usage(
        completion_tokens=8,
        tokens_by_source={"cloud": 2, "exit:6": 0, "exit:3": 6},
        cloud_requests=2,
        bytes_up=38_200,
        bytes_down=512,
        edge_compute_seconds=0.5,
        cloud_compute_seconds=0.25,
        network_seconds=0.125,
    )
    details = Details(finish_reason="length", exact=False, degraded=False, usage=usage)
    return Answer(text="…", details=details, seconds=2.0)


def test_the_table_shows_sources_from_the_shallowest_exit_to_the_cloud(answer: Answer) -> None:
    measures, costs = (list(column.cells) for column in cost_table([("1. [x]", answer)]).columns)
    assert measures[1:4] == ["  exit:3", "  exit:6", "  cloud"]
    assert costs == [
        "8", "6", "0", "2", "2", "38.2 KB", "512 B", "0.50 s", "0.25 s", "0.12 s", "4.0",
    ]  # fmt: skip


def test_shares_leave_out_sources_without_tokens(answer: Answer) -> None:
    assert shares(answer) == "cloud 25%, exit:3 75%"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (999_999, "1000.0 KB"), (38_200_000, "38.2 MB")],
)
def test_sizes_are_written_for_people(count: int, words: str) -> None:
    assert size_of(count) == words
