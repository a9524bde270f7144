"""`tandem chat`: write, watch the answer arrive token by token, write on.

The conversation so far, in turns of `User:` and `Assistant:`, is the next prompt; the edge keeps
no conversation yet. It knows the edge's API through `cli.edge` only.
"""

from collections.abc import Mapping
from typing import Annotated

import httpx
import typer
from rich.console import Console

from cli.credential import KeyFile, key_of
from cli.edge import Answer, Token, connect, exit_sources, generate
from cli.errors import CommandError
from cli.terminal import TokenPrinter, console, is_interactive, shares, size_of

NEW = "/new"
PROMPT = "[bold]you >[/] "
# The turns the shipped model has learned; an answer ends where the next turn of the user begins.
TURN = "User: {line}\nAssistant:"
STOP = "\nUser:"


def chat(
    *,
    url: Annotated[str, typer.Option(help="The edge to talk to.")] = "http://127.0.0.1:8000",
    mode: Annotated[
        str | None,
        typer.Option(help="Who decides the tokens; the edge's own default if not given."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Confidence an exit needs to keep a token, 0 to 1.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 100,
    temperature: Annotated[
        float | None, typer.Option(help="Above 0 the tokens are drawn; greedy if not given.")
    ] = None,
    key_file: KeyFile = None,
) -> None:
    """Talk to a running edge; every token is coloured by where it was decided."""
    wanted: dict[str, object] = {
        "mode": mode,
        "threshold": threshold,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "stop": [STOP],
    }
    parameters = {name: value for name, value in wanted.items() if value is not None}
    terminal = console()
    printer = TokenPrinter(terminal)
    if is_interactive():
        terminal.print(f"[dim]{NEW} starts over, Ctrl-C stops an answer, Ctrl-D ends[/]")
    with connect(url, key_of(key_file)) as client:
        printer.know_exits(exit_sources(client))
        _converse(client, parameters, terminal, printer)


def _converse(
    client: httpx.Client, parameters: Mapping[str, object], terminal: Console, printer: TokenPrinter
) -> None:
    transcript = ""
    while (line := _read_line(terminal)) is not None:
        if line == NEW:
            transcript = ""
            continue
        if not line:
            continue
        prompt = transcript + TURN.format(line=line)
        try:
            answer = _answer(client, prompt, parameters, terminal, printer)
        except CommandError as error:
            if not is_interactive():
                raise
            terminal.print(f"[bold red]{error}[/]  [dim]({NEW} starts over)[/]")
        else:
            transcript = prompt + answer.removesuffix(STOP) + "\n"


def _read_line(terminal: Console) -> str | None:
    try:
        if is_interactive():
            return terminal.input(PROMPT).strip()
        return input().strip()
    except EOFError:
        return None


def _answer(
    client: httpx.Client,
    prompt: str,
    parameters: Mapping[str, object],
    terminal: Console,
    printer: TokenPrinter,
) -> str:
    """Print one answer with its cost; what arrived of it is returned, also when it was stopped."""
    text = ""
    try:
        for item in generate(client, prompt, parameters):
            match item:
                case Token():
                    text += item.text
                    printer.write(item.text, item.source)
                case Answer():
                    text = item.text
                    printer.end()
                    terminal.print(f"[dim]{_cost(item)}[/]")
                    if printer.needs_legend:
                        terminal.print(printer.legend())
    except CommandError:
        printer.end()
        raise
    except KeyboardInterrupt:
        printer.end()
        terminal.print("[dim]stopped[/]")
    return text


def _cost(answer: Answer) -> str:
    usage = answer.usage
    return (
        f"{answer.tokens_per_second:.1f} tokens/s · {shares(answer)} · "
        f"{usage.cloud_requests} cloud requests · "
        f"{size_of(usage.bytes_up)} up, {size_of(usage.bytes_down)} down"
    )
