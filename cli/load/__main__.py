"""`python -m cli.load`: the load generator where the rest of the command line is not installed."""

import sys

import typer
from rich.markup import escape

from cli.errors import CommandError
from cli.load.command import load
from cli.terminal import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(load)

try:
    app()
except CommandError as error:
    console(stderr=True).print(f"[bold red]tandem:[/] {escape(str(error))}", soft_wrap=True)
    sys.exit(1)
