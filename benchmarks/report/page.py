"""The page on a run: every table and plot, with what was measured, where and when.

It puts parts in order and says how to read them; figures are `tables`', pictures `plots`'.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import grid, tables
from benchmarks.report.paper_table import PROMPTS, TOKENS
from benchmarks.report.plots import draw, title_of
from benchmarks.rows import CellKey, Row
from cli.errors import CommandError

ROWS, ABOUT, PAGE = "latest.json", "about.json", "latest.md"
_NEEDED = ("commit", "machine", "date", "quick")
_HOW_TO_READ = """\
Totals are seconds over all prompts, as the client saw them, medians of the runs; in brackets the
smallest and largest run. Ratios are to cloud-only on the same network: below 1 is faster, and bold.
*Network* is the time the edge waited for the cloud, less the cloud's own compute: near 0 for
cloud-only, whose cloud computes on while its tokens travel. *Agreement* is the share of tokens the
full model would choose on that very text, *identical* counts texts equal to cloud-only's,
*offloaded* is the share of tokens the cloud chose. *Wire* is all that crossed the network, HTTP's
heads included.
"""
_OF_PAIRS = """\
In brackets behind a ratio are the smallest and largest of one prompt: its time over cloud-only's
for the same prompt in the same run, asked soon after each other. *Paired* is the median of these.
"""
_OF_GAPS = """\
*Between tokens* are all gaps between tokens as they reach the user, *pauses* those over 1 ms:
tokens nearer to each other come as one burst.
"""
_OF_SAMPLING = """\
Every deployment was asked with the same sampling and, for each prompt, the same seed; so was the
full model that *agreement* is with.
"""
_OF_THE_PAPER = f"""\
Published: {PROMPTS} prompts of the Alpaca set, {TOKENS // PROMPTS} tokens each; second-hand,
hardware and link not known. Ours: paced, {grid.PAPER_RTT_MS:g} ms and {grid.PAPER_MBIT:g} Mbit/s,
other prompts, scaled to {TOKENS:,} tokens. Bytes are scaled too, though a shorter answer bears more
of its prompt and the naive split's grow with the square of the length. For cloud-only both lines
count tokens: its streamed answer is one request. Its published 367 KB are left out, as it is not
said whether they are for one response or for all.
"""
_OF_THE_PRICES = """\
What steps cost by the list, and what the paper took: three of its times are met by construction.
"""
_OF_THE_DRAFTS = """\
What became of drafts.
"""


def write(folder: Path) -> Path:
    """Write the page and the plots for the rows in `folder`; returns the page.

    Raises:
        CommandError: rows or the account of the run cannot be read or lack something.
    """
    rows = grid.read(folder / ROWS)
    about = read_about(folder / ABOUT)
    page = folder / PAGE
    page.write_text(text(rows, about, draw(rows, folder)))
    return page


def read_about(path: Path) -> Mapping[str, Any]:
    """Read the account of a run.

    Raises:
        CommandError: it cannot be read, or does not say what a page must.
    """
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error
    if not isinstance(about, dict):
        raise CommandError(f"{path} is no account of a run")
    if missing := [key for key in _NEEDED if key not in about]:
        raise CommandError(f"{path} lacks {', '.join(missing)}")
    return about


def text(rows: Sequence[Row], about: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The page as Markdown; pictures lie beside it."""
    ours = [row for row in rows if not row.peer]
    parts = [_heading(rows), _account(rows, about), *_how_to_read(rows)]
    for setup in grid.setups(ours):
        own = [row for row in ours if row.setup == setup]
        parts += [f"## {_capital(title_of(own))}\n", *_setup(ours, setup, pictures)]
    if "bytes" in pictures:
        parts += ["## Bytes\n", _picture(pictures["bytes"])]
    costs = tables.unit_costs(about.get("unit_costs_ms", {}))
    tail = (
        ("Other people's software", "One process on one core, no network.\n", tables.peers(rows)),
        ("Beside the paper's table", _OF_THE_PAPER, tables.beside_the_paper(rows)),
        ("The price list of the paced set-up", _OF_THE_PRICES, costs),
        ("The emulated networks as measured", "", tables.calibration(rows)),
    )
    for title, words, table in tail:
        if table:
            parts += [f"## {title}\n", *([words] if words else []), table]
    return "\n".join(parts)


def _heading(rows: Sequence[Row]) -> str:
    told = f", {grid.chosen(rows[0])}" if rows[0].temperature else ""
    return f"# Results of the benchmark{told}\n"


def _how_to_read(rows: Sequence[Row]) -> Iterator[str]:
    yield _HOW_TO_READ
    if any(row.ratio_paired is not None for row in rows):
        yield _OF_PAIRS
    if any(row.pause_p95_s is not None for row in rows):
        yield _OF_GAPS
    if rows[0].temperature:
        yield _OF_SAMPLING


def _account(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    lengths = sorted({(row.prompts, row.tokens, row.repeats) for row in rows})
    runs = "; ".join(
        f"{prompts} prompts, {tokens} tokens in all, {repeats} run{'s' if repeats > 1 else ''}"
        for prompts, tokens, repeats in lengths
    )
    kind = "Quick" if about["quick"] else "Full"
    lines = [
        f"{kind} run of commit `{about['commit'] or 'unknown'}` on {about['machine']}, "
        f"{about['date']}.",
        f"Each row: {runs}.",
    ]
    if "late_steps" in about:
        lines.append(f"Paced steps that could not hold their price: {about['late_steps']}.")
    return "\n".join(lines) + "\n"


def _setup(rows: Sequence[Row], setup: str, pictures: Mapping[str, Path]) -> Iterator[str]:
    own = [row for row in rows if row.setup == setup]
    for mbit in grid.bandwidths(own):
        title = "No bandwidth limit" if mbit is None else grid.rate(mbit)
        yield f"### {title}\n"
        yield tables.ratios(rows, setup, mbit)
        if gaps := tables.between_tokens(rows, setup, mbit):
            yield gaps
    for name in (f"total_by_rtt_{setup}", f"cost_{setup}"):
        if name in pictures:
            yield _picture(pictures[name])
    for cell in _in_full(own, setup):
        yield f"### {_capital(grid.network(cell))}, every figure\n"
        yield tables.times(rows, cell)
        yield tables.traffic(rows, cell)
        if drafts := tables.drafts(rows, cell):
            yield _OF_THE_DRAFTS
            yield drafts


def _in_full(rows: Sequence[Row], setup: str) -> list[CellKey]:
    """Loopback, where the software's own time shows, and the network nearest to the paper's."""
    cells = grid.networks(rows)
    chosen = [cell for cell in cells if grid.is_loopback(cell)]
    chosen += [cell for cell in cells if _is_the_papers(cell)]
    return chosen or grid.telling(rows, setup)[:1]


def _is_the_papers(cell: CellKey) -> bool:
    return (cell.rtt_ms, cell.mbit) == (grid.PAPER_RTT_MS, grid.PAPER_MBIT)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _picture(path: Path) -> str:
    return f"![{path.stem.replace('_', ' ')}]({path.name})\n"
