"""`python -m benchmarks.peers`: other people's software on given prompts, as JSON.

    python -m benchmarks.peers --model models/tandem-10m --prompts prompts.json --new-tokens 32

Prints a list of {"peer", "absent", "repeats": [{"total_s", "requests": [{"ids", "ttft_s", "gaps_s",
"total_s"}]}]}; `absent` says why a peer could not be asked. It reads options, nothing else.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.peers.cores import chosen, stay_on
from benchmarks.peers.peer import Length
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL, exits_beside
from shared.errors import BadModel


def main(
    *,
    prompts: Annotated[Path, typer.Option(help='JSON list of {"prompt", "ids"}.')],
    model: Annotated[Path, typer.Option(help="Checkpoint to run.")] = SHIPPED_MODEL,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every answer.")] = 32,
    may_end: Annotated[
        bool, typer.Option("--may-end", help="Let an answer end where the text does.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of every peer.")] = 3,
    core: Annotated[int | None, typer.Option(help="CPU of the cloud; the last one else.")] = None,
    edge_core: Annotated[
        int | None, typer.Option(help="CPU of the edge; another than the cloud's else.")
    ] = None,
    early_exit: Annotated[
        int | None, typer.Option(min=1, help="Layer drafts leave at; the first exit's else.")
    ] = None,
    out: Annotated[str, typer.Option("--json", help="File to write; - is stdout.")] = "-",
) -> None:
    """Run every peer over the prompts and write what came of it."""
    try:
        of_cloud, of_edge = chosen(core, edge_core)
        stay_on(of_cloud)
        # The heavy imports come after: their threads stay on the core they are born on.
        from benchmarks.peers.run import Plan, read_prompts, run
        from services.edge.text import TextCodec

        plan = Plan(
            model=model,
            prompts=read_prompts(prompts),
            length=Length(new_tokens, TextCodec(model).eos_ids, exactly=not may_end),
            repeats=repeats,
            early_exit=early_exit or _first_exit(model),
            core=of_cloud,
            edge_core=of_edge,
        )
        told = json.dumps([report.to_json() for report in run(plan)]) + "\n"
        if out == "-":
            sys.stdout.write(told)
        else:
            Path(out).write_text(told)
    except (CommandError, BadModel, OSError) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from error


def _first_exit(model: Path) -> int:
    """Where our own first exit is; without trained ones a quarter of the depth, as in the paper."""
    try:
        return exits_beside(model)[0]
    except CommandError:
        from shared.model.families import read_source

        depth: int = read_source(model).config.num_hidden_layers
        return max(1, depth // 4)


if __name__ == "__main__":
    typer.run(main)
