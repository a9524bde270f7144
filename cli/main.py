"""The `tandem` command: the list of its subcommands, and how their errors reach a person.

It knows what the subcommands are called; each module beside it knows one of them.
"""

import sys

import typer
from rich.markup import escape

from cli.chat import chat
from cli.demo import demo
from cli.doctor import doctor
from cli.errors import CommandError
from cli.evaluate.command import evaluate
from cli.keys import keys
from cli.load.command import load
from cli.partition import partition
from cli.run import run
from cli.terminal import console
from cli.train import train
from cli.train_drafter import train_drafter
from cli.tune_exits import tune_exits

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serve one large language model from an edge machine and a cloud machine at once.",
)
COMMANDS = (
    demo,
    run,
    chat,
    doctor,
    partition,
    train,
    train_drafter,
    tune_exits,
    evaluate,
    load,
    keys,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line; what a person can put right is one red line, and the exit code is 1."""
    try:
        app()
    except CommandError as error:
        console(stderr=True).print(f"[bold red]tandem:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
