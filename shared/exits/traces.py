"""Traces: what the exits and the end of a model said along a text, one document a line.

    {"format": 2, "model_fingerprint": "ef70...", "exits_sha256": "9a04...",
     "document": "sgd_dev-17", "source": "sgd_dev", "kind": "greedy", "exits": [3, 6],
     "whole": [17, 301, null],
     "exit": {"3": {"token": [17, 17, null], "top": [0.98, 0.4, null], "entropy": [...],
                    "margin": [...], "sharp": [...]}, "6": {...}}}

A place is a token of the text as it was decided: `whole` is what the full model chose after the
same prefix, null where nobody asked it; an exit's five lists say what it chose and the four signals
of `shared.exits.signals`, null together where it was not asked. `kind` says how the full model
chooses: "greedy" or "sampled"; `exits_sha256` whose exits spoke, a drafter's or the checkpoint's
own, null where these have no weights of their own. Lines with one `source` and `document` are parts
of one text, as turns of a conversation are. Files are JSON lines, read and written through xz where
their name ends so. Knows files and plain numbers only.
"""

import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import IO, Any

from shared.exits.signals import FEATURES

FORMAT = 2
KINDS = ("greedy", "sampled")
_TEXTS = ("model_fingerprint", "document", "source", "kind")
_NAMES = {"format", *_TEXTS, "exits_sha256", "exits", "whole", "exit"}

Tokens = tuple[int | None, ...]
Numbers = tuple[float | None, ...]


class BadTrace(ValueError):
    """What should be a trace has another form; the message names the file, the line and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitTrace:
    """What one exit said at each of N places; all five are None where it was not asked.

    token: the vocabulary id it would have chosen. top, margin: probabilities in [0, 1]; entropy,
    sharp: nats, at least 0.
    """

    token: Tokens
    top: Numbers
    entropy: Numbers
    margin: Numbers
    sharp: Numbers

    def __post_init__(self) -> None:
        rows = (self.token, self.top, self.entropy, self.margin, self.sharp)
        if len(set(map(len, rows))) != 1:
            raise BadTrace(f"an exit's lists are {[len(row) for row in rows]} long")
        for place, said in enumerate(zip(*rows, strict=True)):
            if any((part is None) != (said[0] is None) for part in said):
                raise BadTrace(f"an exit was asked in part at place {place}")
        _check_tokens(self.token, "token")
        for name in FEATURES:
            _check_numbers(getattr(self, name), name, most=1 if name in ("top", "margin") else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One document: N places, by exit (named by its layer, rising) and at the end of the model."""

    model_fingerprint: str
    document: str
    source: str
    kind: str
    whole: Tokens
    exits: Mapping[int, ExitTrace]
    exits_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadTrace(f"kind is one of {KINDS}, not {self.kind!r}")
        if not self.exits or list(self.exits) != sorted(set(self.exits)):
            raise BadTrace(f"exits are layers, rising, not {list(self.exits)}")
        _check_tokens(self.whole, "whole")
        for layer, said in self.exits.items():
            if len(said.token) != len(self.whole):
                raise BadTrace(
                    f"exit {layer} spoke at {len(said.token)} places of {len(self.whole)}"
                )

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def complete(self) -> bool:
        """Whether the full model and every exit were asked everywhere."""
        said = (self.whole, *(exit_.token for exit_ in self.exits.values()))
        return not any(token is None for tokens in said for token in tokens)


def write_traces(path: Path, traces: Iterable[Trace]) -> int:
    """Write documents to a file, replacing it; returns how many there were.

    Raises OSError; nothing else, as a Trace that exists is sound.
    """
    count = 0
    with _open(path, "wt") as lines:
        for trace in traces:
            lines.write(trace_line(trace) + "\n")
            count += 1
    return count


def trace_line(trace: Trace) -> str:
    """A document as one line of JSON, without its end of line."""
    said = {
        str(layer): {name: list(getattr(exit_, name)) for name in ("token", *FEATURES)}
        for layer, exit_ in trace.exits.items()
    }
    content = {
        "format": FORMAT,
        "model_fingerprint": trace.model_fingerprint,
        "exits_sha256": trace.exits_sha256,
        "document": trace.document,
        "source": trace.source,
        "kind": trace.kind,
        "exits": list(trace.exits),
        "whole": list(trace.whole),
        "exit": said,
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def read_traces(path: Path) -> Iterator[Trace]:
    """Yield the documents of a `.jsonl` or `.jsonl.xz` file in their order.

    Raises BadTrace, naming file and line, where one has another form or the file is cut short;
    OSError where it cannot be read.
    """
    number = 1
    try:
        with _open(path, "rt") as lines:
            for line in lines:
                if line.strip():
                    yield parse_trace(line)
                number += 1
    except (BadTrace, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}, line {number}: {error}") from error


def parse_trace(line: str) -> Trace:
    """Read one line. Raises BadTrace where it has another form, unknown names included."""
    try:
        content = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadTrace(f"no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadTrace(f"not of format {FORMAT}")
    if content.keys() != _NAMES:
        raise BadTrace(f"lacks or does not know {sorted(content.keys() ^ _NAMES)}")
    for name in (*_TEXTS, "exits_sha256"):
        absent = name == "exits_sha256" and content[name] is None
        if not absent and not isinstance(content[name], str):
            raise BadTrace(f"{name} is a text, not {content[name]!r}")
    layers, said = _list(content["exits"], "exits"), content["exit"]
    if not all(_is_token(layer) for layer in layers):
        raise BadTrace(f"exits are layers, not {list(layers)}")
    if not isinstance(said, dict) or list(said) != [str(layer) for layer in layers]:
        raise BadTrace(f"what exits said is not that of {list(layers)}")
    return Trace(
        model_fingerprint=content["model_fingerprint"],
        document=content["document"],
        source=content["source"],
        kind=content["kind"],
        whole=_list(content["whole"], "whole"),
        exits={layer: _exit(said[str(layer)], layer) for layer in layers},
        exits_sha256=content["exits_sha256"],
    )


def _exit(content: Any, layer: int) -> ExitTrace:
    if not isinstance(content, dict) or content.keys() != {"token", *FEATURES}:
        raise BadTrace(f"exit {layer} says token and {FEATURES}")
    return ExitTrace(**{name: _list(values, name) for name, values in content.items()})


def _list(content: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(content, list):
        raise BadTrace(f"{name} is a list")
    return tuple(content)


def _check_tokens(tokens: Tokens, name: str) -> None:
    for place, token in enumerate(tokens):
        if token is not None and not _is_token(token):
            raise BadTrace(f"{name} {place} is {token!r}")


def _check_numbers(numbers: Numbers, name: str, *, most: float | None) -> None:
    for place, value in enumerate(numbers):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise BadTrace(f"{name} {place} is {value!r}")
        if value < 0 or (most is not None and value > most):
            raise BadTrace(f"{name} {place} is {value!r}, out of range")


def _is_token(token: Any) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and token >= 0


def _refuse(constant: str) -> None:
    raise BadTrace(f"holds {constant}")


def _open(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".xz":
        return lzma.open(path, mode, encoding="utf-8")  # type: ignore[return-value] # text modes
    return path.open(mode, encoding="utf-8")
