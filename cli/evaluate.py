"""`tandem evaluate`: what each mode and threshold does to real prompts, as a table.

Asks a running pair of services (started here) every prompt in every setting, greedily, and holds
each answer's tokens against the full model run over that very text. It measures where tokens come
from, what goes over the wire and how often the full model agrees; it does not measure time.
"""

import json
import lzma
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx
import typer

from cli.edge import connect
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.processes import Plan, free_ports, running, wait_ready
from cli.terminal import console

if TYPE_CHECKING:
    from cli.full_model import FullModel

READY_SECONDS = 60.0
LONGEST_PROMPT = 1500  # tokens; longer ones are passed over

# (name in the table, request parameters)
SETTINGS: tuple[tuple[str, dict[str, object]], ...] = (
    ("cloud", {"mode": "cloud"}),
    ("split, fp32", {"mode": "split", "codec": "fp32"}),
    ("split, fp16", {"mode": "split", "codec": "fp16"}),
    ("split, int8", {"mode": "split", "codec": "int8"}),
    ("collaborative, default", {"mode": "collaborative"}),
    ("collaborative, default, int8", {"mode": "collaborative", "codec": "int8"}),
    ("collaborative, 0.7", {"mode": "collaborative", "threshold": 0.7}),
    ("collaborative, 0.8", {"mode": "collaborative", "threshold": 0.8}),
    ("collaborative, 0.9", {"mode": "collaborative", "threshold": 0.9}),
    ("standalone", {"mode": "standalone"}),
)


@dataclass(slots=True)
class Row:
    """Sums over all prompts in one setting."""

    name: str
    sources: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    bytes_up: int = 0
    agreeing: int = 0
    identical: int = 0
    prompts: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.sources.values())


def evaluate(
    prompts: Annotated[Path, typer.Argument(help='JSON lines with a "prompt" each; .xz is read.')],
    *,
    model: Annotated[Path, typer.Option(help="Checkpoint to evaluate.")] = SHIPPED_MODEL,
    count: Annotated[int, typer.Option(min=1, help="Prompts to ask.")] = 50,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Also write the table here.")] = None,
) -> None:
    """Ask held-out prompts in every mode and print where tokens came from and what they cost."""
    from cli.full_model import FullModel  # seconds that --help should not cost

    terminal = console(stderr=True)
    split, edge_depth = exits_beside(model)
    with tempfile.TemporaryDirectory(prefix="tandem-evaluate-") as name:
        folder = Path(name)
        make_bundles(model, folder, split=split, edge_depth=edge_depth)
        asked = list(_prompts(prompts, model, count))
        cloud_port, edge_port = free_ports(2)
        plan = Plan(folder / "edge", folder / "cloud", edge_port=edge_port, cloud_port=cloud_port)
        with running(plan, logs=folder) as (cloud, edge):
            wait_ready(cloud, plan.cloud_url, seconds=READY_SECONDS)
            wait_ready(edge, plan.edge_url, seconds=READY_SECONDS, cloud="reachable")
            with connect(plan.edge_url) as client, terminal.status("asking") as status:
                judge = FullModel(model)
                whole: dict[int, list[int]] = {}
                rows = []
                for label, parameters in SETTINGS:
                    status.update(f"asking: {label}")
                    parameters = {**parameters, "max_new_tokens": max_new_tokens}
                    rows.append(
                        _ask_all(client, asked, label, parameters, judge=judge, whole=whole)
                    )
    table = markdown(rows, (f"exit:{split}", f"exit:{edge_depth}"))
    typer.echo(table)
    if out is not None:
        out.write_text(table + "\n")


def _prompts(path: Path, model: Path, count: int) -> Iterator[tuple[str, list[int]]]:
    """The first `count` prompts that fit, with their token ids."""
    from services.edge.text import TextCodec

    text = TextCodec(model)
    try:
        raw = path.read_bytes()
        lines = (lzma.decompress(raw) if path.suffix == ".xz" else raw).splitlines()
        found = (json.loads(line)["prompt"] for line in lines)
        fitting = ((p, ids) for p in found if 0 < len(ids := text.encode(p)) <= LONGEST_PROMPT)
        yield from islice(fitting, count)
    except (OSError, ValueError, KeyError, lzma.LZMAError) as error:
        raise CommandError(f"{path} holds no prompts as JSON lines: {error!r}") from error


def _ask_all(
    client: httpx.Client,
    asked: Sequence[tuple[str, list[int]]],
    label: str,
    parameters: dict[str, object],
    *,
    judge: "FullModel",
    whole: dict[int, list[int]],
) -> Row:
    """Ask every prompt in one setting; `whole` is filled by the first one, which is `cloud`."""
    row = Row(label)
    for number, (prompt, ids) in enumerate(asked):
        body = {"inputs": prompt, "parameters": {**parameters, "details": True}}
        response = client.post("/generate", json=body)
        if not response.is_success:
            raise CommandError(
                f"{label}: the edge answered {response.status_code}: {response.text}"
            )
        details = response.json()["details"]
        tokens = [token["id"] for token in details["tokens"]]
        reference = whole.setdefault(number, tokens)
        usage = details["usage"]
        row.sources.update(usage["tokens_by_source"])
        row.requests += usage["cloud_requests"]
        row.bytes_up += usage["bytes_up"]
        row.agreeing += judge.agreeing(ids, tokens)
        row.identical += tokens == reference
        row.prompts += 1
    return row


def markdown(rows: Sequence[Row], exits: Sequence[str]) -> str:
    """The rows as a Markdown table."""
    heads = ("mode, threshold", *exits, "cloud", "requests/token", "bytes up/token")
    lines = [
        "| " + " | ".join((*heads, "agreement", "identical texts")) + " |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for row in rows:
        shares = (f"{row.sources[s] / row.tokens:.1%}" for s in (*exits, "cloud"))
        cells = (
            row.name,
            *shares,
            f"{row.requests / row.tokens:.3f}",
            f"{row.bytes_up / row.tokens:,.0f}",
            f"{row.agreeing / row.tokens:.1%}",
            f"{row.identical} of {row.prompts}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
