"""`tandem demo`: both services with the shipped model, three requests, what each token cost.

The same prompt is asked in collaborative mode and in cloud mode, so the two rows of the table
compare. It knows the prompts; the services and the model are started as anybody would.
"""

import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.edge import Answer, Token, connect, generate
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.processes import Plan, Service, free_ports, running, wait_ready
from cli.terminal import TokenPrinter, console, cost_table

# (mode, prompt)
REQUESTS = (
    ("collaborative", "User: Hi, I want to find a restaurant in San Jose.\nAssistant:"),
    ("collaborative", "User 1: Hi! How are you today?\nUser 2:"),
    ("collaborative", "The king said to his daughter,"),
    ("cloud", "User: Hi, I want to find a restaurant in San Jose.\nAssistant:"),
)


def demo(
    *,
    model: Annotated[Path, typer.Option(help="Checkpoint to show.")] = SHIPPED_MODEL,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per request.")] = 60,
) -> None:
    """Generate with both sides on this machine and show which side made each token."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    terminal = console()
    split, edge_depth = exits_beside(model)
    with tempfile.TemporaryDirectory(prefix="tandem-demo-") as name:
        folder = Path(name)
        make_bundles(model, folder, split=split, edge_depth=edge_depth)
        cloud_port, edge_port = free_ports(2)
        plan = Plan(
            edge_bundle=folder / "edge",
            cloud_bundle=folder / "cloud",
            edge_port=edge_port,
            cloud_port=cloud_port,
        )
        with running(plan, logs=folder) as (cloud, edge):
            wait_ready(cloud, plan.cloud_url)
            wait_ready(edge, plan.edge_url, cloud="reachable")
            printer = TokenPrinter(terminal)
            printer.know_exits((f"exit:{split}", f"exit:{edge_depth}"))
            try:
                answers = _ask(plan.edge_url, max_new_tokens, terminal, printer)
            except CommandError as error:
                raise CommandError(f"{error}\n{_tails(cloud, edge)}") from error
    terminal.print(printer.legend())
    terminal.print()
    terminal.print(cost_table(answers))


def _ask(
    url: str, max_new_tokens: int, terminal: Console, printer: TokenPrinter
) -> list[tuple[str, Answer]]:
    """Print every request's tokens as they arrive; (label, answer) of each."""
    answers = []
    with connect(url) as client:
        for number, (mode, prompt) in enumerate(REQUESTS, start=1):
            terminal.print(f"\n[bold]{number}. {mode}[/]")
            terminal.print(f"[dim]{prompt}[/]", end="", soft_wrap=True)
            parameters = {"mode": mode, "max_new_tokens": max_new_tokens}
            for item in generate(client, prompt, parameters):
                match item:
                    case Token():
                        printer.write(item.text, item.source)
                    case Answer():
                        answers.append((f"{number}. {mode}", item))
            printer.end()
    terminal.print()
    return answers


def _tails(*services: Service) -> str:
    return "\n".join(f"--- {service.name} ---\n{service.tail()}" for service in services)
