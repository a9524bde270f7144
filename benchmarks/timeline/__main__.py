"""`python -m benchmarks.timeline`: one request on paced services, as a picture."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from benchmarks import prompts
from benchmarks.deployments import DEPLOYMENTS, Cut, Deployment
from benchmarks.network.path import Shape
from benchmarks.timeline.lanes import lanes
from benchmarks.timeline.picture import picture
from benchmarks.timeline.record import Recording, record
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL
from shared.errors import BadModel

LONGEST_PROMPT = 512
DPI = 100


def main(
    *,
    out: Annotated[Path, typer.Option(help="Picture to write.")],
    deployment: Annotated[str | None, typer.Option(help="By its name in the benchmark.")] = None,
    mode: Annotated[
        str, typer.Option(help="Without a deployment: the request's mode.")
    ] = "verified",
    verify: Annotated[str | None, typer.Option(help="states or ids.")] = None,
    cut: Annotated[str, typer.Option(help="quarter or half.")] = "quarter",
    setting: Annotated[
        list[str] | None, typer.Option(help="Of the edge, as draft_ahead=4; also of a deployment.")
    ] = None,
    delay: Annotated[float, typer.Option(min=0, help="Round trip, ms.")] = 50.0,
    mbit: Annotated[float, typer.Option(help="Mbit/s each way.")] = 30.0,
    new_tokens: Annotated[int, typer.Option(min=2)] = 24,
    prompt: Annotated[int, typer.Option(min=0, help="Which of the shipped prompts.")] = 0,
) -> None:
    """Ask once and draw what happened when."""
    chosen = _deployment(deployment, mode=mode, verify=verify, cut=cut, settings=setting or [])
    found = prompts.read(prompts.SHIPPED, SHIPPED_MODEL, count=prompt + 1, longest=LONGEST_PROMPT)
    shape = Shape(rtt_ms=delay, mbit_up=mbit, mbit_down=mbit)
    recording = record(
        SHIPPED_MODEL, chosen, found[prompt].text, shape=shape, new_tokens=new_tokens
    )
    title = f"{chosen.name}: one request, {delay:g} ms round trip, {mbit:g} Mbit/s"
    figure = picture(lanes(recording), title, _account(recording))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI, metadata={"Software": None})
    typer.echo(out)


def _deployment(
    name: str | None, *, mode: str, verify: str | None, cut: str, settings: Sequence[str]
) -> Deployment:
    told = dict(each.partition("=")[::2] for each in settings)
    if name is not None:
        if name not in DEPLOYMENTS:
            raise CommandError(
                f"no deployment is called {name}; there are {', '.join(DEPLOYMENTS)}"
            )
        known = DEPLOYMENTS[name]
        if known.matched is not None and "threshold" not in known.parameters:
            raise CommandError(f"{name} has no threshold of its own")
        return replace(known, settings={**known.settings, **told})
    if cut not in ("quarter", "half"):
        raise CommandError(f"a cut is quarter or half, not {cut}")
    parameters: dict[str, Any] = {"mode": mode, **({"verify": verify} if verify else {})}
    words = [mode, *([verify] if verify else []), *settings]
    return Deployment(", ".join(words), parameters, cut=cast(Cut, cut), settings=told)


def _account(recording: Recording) -> str:
    usage = recording.details["usage"]
    seconds = recording.stream.arrivals[-1] - recording.stream.began
    parts = [
        f"{usage['prompt_tokens']} tokens asked, {usage['completion_tokens']} answered in "
        f"{1e3 * seconds:.0f} ms",
        f"{usage['cloud_passes']} cloud passes",
        f"{usage['drafted_tokens']} drafts, {usage['accepted_tokens']} of them in the text",
        f"edge {usage['edge_compute_seconds']:.2f} s",
        f"cloud {usage['cloud_compute_seconds']:.2f} s",
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (CommandError, BadModel) as error:
        sys.exit(str(error))
