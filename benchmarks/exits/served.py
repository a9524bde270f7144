"""`python -m benchmarks.exits.served`: what running services made of targets.

Prompts are asked of a pair of services for each target, and each answer's tokens are held against
the full model in float32, run by transformers over that very text with the same noise. Thresholds
stay as calibrated (requests carry an `X-Session-ID`). Some kinds are those a target is refused for:
the calibration that is not meant for them is put into the bundle by hand, to see what refusing
saves from.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Literal
from uuid import uuid4

import httpx
import typer

from benchmarks.exits.splits import TARGETS
from benchmarks.prompts import SHIPPED, Prompt, read
from cli.edge import connect
from cli.errors import CommandError
from cli.full_model import FullModel
from cli.partition import Weights, exits_beside, make_bundles
from cli.processes import serving
from shared.decoding.sampling import SamplingParameters
from shared.exits.calibration import file_of
from shared.model import Manifest
from shared.model.exits import read_agreement_beside

LONGEST_PROMPT = 128

# The calibration of the bundle itself; the greedy one for drawn tokens too; the one a bundle with
# float32 weights has.
Calibrated = Literal["own", "by greedy text", "of float32"]


@dataclass(frozen=True, slots=True)
class Kind:
    """How tokens are chosen, by which weights on the edge, under which calibration."""

    temperature: float = 0.0
    weights: Weights = Weights.FP32
    calibrated: Calibrated = "own"
    targets: Sequence[float] = TARGETS
    top_p: float = 1.0
    codec: str = "fp16"

    @property
    def name(self) -> str:
        """The kind in a few words."""
        parts = [
            f"temperature {self.temperature:g}" if self.temperature else "greedy",
            "" if self.top_p == 1 else f"top_p {self.top_p:g}",
            str(self.weights),
            "" if self.codec == "fp16" else f"codec {self.codec}",
            "" if self.calibrated == "own" else f"calibrated {self.calibrated}",
        ]
        return ", ".join(filter(None, parts))

    @property
    def bundle(self) -> tuple[Weights, Calibrated]:
        """What kinds that share a pair of services have in common."""
        return self.weights, self.calibrated


KINDS = (
    Kind(),
    Kind(temperature=0.8),
    Kind(temperature=1.0),
    Kind(temperature=0.3, targets=(0.02,)),
    Kind(temperature=1.0, top_p=0.9, targets=(0.02,)),
    Kind(codec="int8", targets=(0.01, 0.02)),
    Kind(temperature=0.8, calibrated="by greedy text", targets=(0.01,)),
    Kind(temperature=1.0, calibrated="by greedy text", targets=(0.01,)),
    Kind(weights=Weights.BF16, targets=(0.02,)),
    Kind(weights=Weights.INT8, targets=(0.02,)),
    Kind(weights=Weights.INT4, calibrated="of float32", targets=(0.02,)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One target of one kind: shares of tokens that are not the full model's choice (mean over
    texts, its standard error, and of all tokens together), and of those the cloud chose.
    """

    kind: str
    target: float
    texts: int
    tokens: int
    disagreement: float
    error: float
    of_all_tokens: float
    offloaded: float


@dataclass(slots=True)
class Asker:
    """Asks one pair of services, and judges what comes back."""

    client: httpx.Client
    judge: FullModel
    prompts: Sequence[Prompt]
    new_tokens: int

    def row(self, kind: Kind, target: float) -> Row:
        """Every prompt once, with a seed of its own.

        Raises:
            CommandError: the edge refuses.
        """
        wrong, lengths, offloaded = [], [], 0
        for seed, prompt in enumerate(self.prompts):
            details = self._ask(kind, target, prompt.text, seed)
            ids = [token["id"] for token in details["tokens"]]
            wrong.append(len(ids) - self.judge.agreeing(prompt.ids, ids, seed=seed))
            lengths.append(len(ids))
            offloaded += details["usage"]["tokens_by_source"].get("cloud", 0)
        shares = [w / length for w, length in zip(wrong, lengths, strict=True)]
        return Row(
            kind=kind.name,
            target=target,
            texts=len(shares),
            tokens=sum(lengths),
            disagreement=mean(shares),
            error=stdev(shares) / math.sqrt(len(shares)),
            of_all_tokens=sum(wrong) / sum(lengths),
            offloaded=offloaded / sum(lengths),
        )

    def _ask(self, kind: Kind, target: float, text: str, seed: int) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        if kind.temperature:
            drawn = {"temperature": kind.temperature, "top_p": kind.top_p, "seed": seed}
        parameters = {
            "mode": "collaborative",
            "max_new_tokens": self.new_tokens,
            "max_disagreement": target,
            "codec": kind.codec,
            "details": True,
            **drawn,
        }
        response = self.client.post(
            "/generate",
            json={"inputs": text, "parameters": parameters},
            headers={"X-Session-ID": uuid4().hex},
        )
        if not response.is_success:
            raise CommandError(f"{kind.name}: {response.status_code}: {response.text}")
        details: dict[str, Any] = response.json()["details"]
        return details


def put_in(edge: Path, model: Path, calibrated: Calibrated) -> None:
    """Write the calibration a bundle is not given.

    Raises:
        CommandError: there is none beside the model.
    """
    if calibrated == "own":
        return
    manifest = Manifest.read(edge)
    cut = None if manifest.drafter is None else exits_beside(model)
    agreement = read_agreement_beside(model, manifest.fingerprint, cut)
    if agreement is None:
        raise CommandError(f"{model} has no {file_of(cut)}")
    if calibrated == "by greedy text":
        agreement = replace(agreement, text="sampled")
    agreement.write(edge / file_of(text=agreement.text))


@contextmanager
def served(model: Path, weights: Weights, calibrated: Calibrated) -> Iterator[str]:
    """A pair of services on the default cut, the edge with these weights; the edge's URL."""
    with tempfile.TemporaryDirectory(prefix="tandem-served-") as name:
        folder = Path(name)
        split, edge_depth = exits_beside(model)
        make_bundles(model, folder, split=split, edge_depth=edge_depth, weights=weights)
        put_in(folder / "edge", model, calibrated)
        with serving(folder) as plan:
            yield plan.edge_url


def measure(
    model: Path, prompts: Sequence[Prompt], kinds: Sequence[Kind], new_tokens: int
) -> Iterator[Row]:
    """A row for each target of each kind, services started once for those that share them."""
    for weights, calibrated in dict.fromkeys(kind.bundle for kind in kinds):
        with served(model, weights, calibrated) as url, connect(url) as client:
            for kind in kinds:
                if kind.bundle != (weights, calibrated):
                    continue
                drawn = SamplingParameters(temperature=kind.temperature, top_p=kind.top_p)
                judge = FullModel(model, drawn)
                asker = Asker(client, judge, prompts, new_tokens)
                for target in kind.targets:
                    yield asker.row(kind, target)


def page(rows: Sequence[Row], about: str) -> str:
    """The rows as Markdown."""
    lines = [
        "# Targets as running services met them\n",
        about,
        "Shares of tokens that are not the full model's choice (float32) on the same text: mean "
        "over texts and its standard error, and of all tokens together.\n",
        "| kind | target | of texts | of all tokens | offloaded |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.kind} | {row.target:g} | {row.disagreement:.4f} ± {row.error:.4f} "
        f"| {row.of_all_tokens:.4f} | {row.offloaded:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(
    model: Annotated[Path, typer.Argument(help="Checkpoint with calibrated exits.")] = Path(
        "models/tandem-10m"
    ),
    *,
    prompts: Annotated[Path, typer.Option(help="JSON lines of prompts.")] = SHIPPED,
    count: Annotated[int, typer.Option(min=2, help="Prompts to ask.")] = 40,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Folder for latest.md and latest.json.")] = None,
) -> None:
    """Ask every prompt for every kind and target, and print what was realised."""
    try:
        chosen = read(prompts, model, count=count, longest=LONGEST_PROMPT)
        rows = []
        for row in measure(model, chosen, KINDS, new_tokens):
            typer.echo(f"{row.kind}, {row.target:g}: {row.disagreement:.4f}", err=True)
            rows.append(row)
    except CommandError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    command = f"python -m benchmarks.exits.served --count {count} --new-tokens {new_tokens}"
    told = page(rows, f"`{command}`, prompts of {prompts.name}.\n")
    typer.echo(told)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "latest.md").write_text(told)
        content = {"format": 1, "command": command, "rows": [asdict(row) for row in rows]}
        (out / "latest.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
