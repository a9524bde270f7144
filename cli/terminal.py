"""How tokens and costs look in a terminal: by colour, and by marks where there is no colour.

It knows the names of sources; it does not know where tokens come from.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cli.edge import Answer

# Early exits are cool colours, the cloud is warm; the marks say the same without colour.
EXITS = (("green", "¹"), ("cyan", "²"), ("blue", "³"))
STYLES = {
    "draft": ("bright_blue italic", "˚"),
    "cloud": ("magenta underline", "^"),
    "fallback": ("yellow reverse", "!"),
}
UNKNOWN = ("", "?")


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that honours NO_COLOR and pipes."""
    return Console(stderr=stderr, highlight=False)


def _is_exit(source: str) -> bool:
    return source.startswith("exit:")


class TokenPrinter:
    """Writes tokens as they arrive, each in the look of its source; knows the legend to it."""

    def __init__(self, terminal: Console) -> None:
        self._terminal = terminal
        self._coloured = terminal.color_system is not None
        self._last: str | None = None
        self._seen: set[str] = set()
        self._exits: set[str] = set()
        self._explained: set[str] = set()

    def look(self, source: str) -> tuple[str, str]:
        """The (style, mark) of a source; exits are told apart by their order among those seen."""
        if not _is_exit(source):
            return STYLES.get(source, UNKNOWN)
        exits = {s for s in self._seen | {source} if _is_exit(s)} | self._exits
        order = sorted(exits, key=_layer)
        return EXITS[min(order.index(source), len(EXITS) - 1)]

    def know_exits(self, sources: Iterable[str]) -> None:
        """Announce the exits to come, so that each keeps its look whichever is seen first."""
        self._exits |= set(sources)

    def write(self, text: str, source: str) -> None:
        """Append one token to the line; without colour a mark opens each run of a source."""
        self._seen.add(source)
        style, mark = self.look(source)
        if not self._coloured and source != self._last:
            text = mark + text
        self._last = source
        self._terminal.print(Text(text, style), end="", soft_wrap=True)
        self._terminal.file.flush()

    def end(self) -> None:
        """Finish the line; the next token opens a new run."""
        self._last = None
        self._terminal.print()

    @property
    def needs_legend(self) -> bool:
        """Whether a source was seen that no legend has explained yet."""
        return not self._seen <= self._explained

    def legend(self) -> Text:
        """One line that names every source seen so far in its own look."""
        self._explained |= self._seen
        line = Text("  ")
        for source in sorted(self._seen, key=lambda name: (not _is_exit(name), _layer(name), name)):
            style, mark = self.look(source)
            line.append(f"{mark} " if not self._coloured else "")
            line.append(explain(source), style)
            line.append("   ")
        return line


def _layer(source: str) -> int:
    tail = source.partition(":")[2]
    return int(tail) if tail.isdigit() else 0


def explain(source: str) -> str:
    """What a source means, in a few words."""
    if _is_exit(source):
        return f"{source}: kept on the edge after {_layer(source)} layers"
    return {
        "draft": "draft: drafted on the edge, confirmed by the cloud",
        "cloud": "cloud: decided in the cloud",
        "fallback": "fallback: the edge alone, the cloud could not be reached",
    }.get(source, source)


def cost_table(answers: Iterable[tuple[str, "Answer"]]) -> Table:
    """One column per (label, answer): where its tokens came from, and what they cost."""
    answers = list(answers)
    usages = [answer.usage for _, answer in answers]
    sources = sorted(
        {source for usage in usages for source in usage.tokens_by_source},
        key=lambda name: (not _is_exit(name), _layer(name), name),
    )
    table = Table(title="what each request cost", title_justify="left", header_style="bold")
    table.add_column("")
    for label, _ in answers:
        table.add_column(escape(label), justify="right")
    table.add_row("tokens", *(str(usage.completion_tokens) for usage in usages))
    for source in sources:
        counts = (usage.tokens_by_source.get(source, 0) for usage in usages)
        table.add_row(f"  {source}", *map(str, counts), end_section=source == sources[-1])
    table.add_row("cloud requests", *(str(usage.cloud_requests) for usage in usages))
    table.add_row("bytes up", *(size_of(usage.bytes_up) for usage in usages))
    table.add_row("bytes down", *(size_of(usage.bytes_down) for usage in usages))
    table.add_row("edge computed", *(f"{usage.edge_compute_seconds:.2f} s" for usage in usages))
    table.add_row("cloud computed", *(f"{usage.cloud_compute_seconds:.2f} s" for usage in usages))
    table.add_row("network waited", *(f"{usage.network_seconds:.2f} s" for usage in usages))
    table.add_row(
        "tokens per second", *(f"{answer.tokens_per_second:.1f}" for _, answer in answers)
    )
    return table


def shares(answer: "Answer") -> str:
    """The share of each source, in per cent of the answer's tokens."""
    counts = answer.usage.tokens_by_source
    total = sum(counts.values())
    return ", ".join(f"{source} {count / total:.0%}" for source, count in counts.items() if count)


def size_of(count: int) -> str:
    """A number of bytes for people: 512 B, 1.5 KB, 38.2 MB (powers of ten)."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def is_interactive() -> bool:
    """Whether a person types at this terminal, rather than a pipe."""
    return sys.stdin.isatty()
