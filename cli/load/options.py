"""The options of `tandem load`, each with what it says of itself."""

from pathlib import Path
from typing import Annotated

import typer

Edges = Annotated[list[str], typer.Option(help="An edge: [NAME=]URL. Repeat for several.")]
Discover = Annotated[
    bool, typer.Option("--discover", help="Every address behind a URL's host is an edge.")
]
Prompts = Annotated[
    Path | None, typer.Option(help='JSON lines, each with a "prompt"; a small set of its own else.')
]
Users = Annotated[int | None, typer.Option(min=1, help="Closed loop: so many at once, each waits.")]
Rate = Annotated[
    float | None,
    typer.Option(min=1e-6, help="Open loop: so many sessions start a second, Poisson."),
]
Duration = Annotated[float | None, typer.Option(min=0.1, help="Seconds of load.")]
Requests = Annotated[int | None, typer.Option(min=1, help="Requests, instead of seconds.")]
Modes = Annotated[
    list[str] | None,
    typer.Option(
        help="MODE[=WEIGHT]; repeat for a mixture. Else collaborative, whatever the edge's own."
    ),
]
Turns = Annotated[
    int, typer.Option(min=1, help="Requests a session, each continuing the text so far.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens a request at most.")]
Temperature = Annotated[float | None, typer.Option(help="Sample; greedy else.")]
Threshold = Annotated[float | None, typer.Option(help="Of both exits; their own else.")]
Codec = Annotated[str | None, typer.Option(help="fp32, fp16 or int8; the edge's own else.")]
Seed = Annotated[int, typer.Option(help="Of prompts, modes, arrivals and sampling.")]
WaitReady = Annotated[float, typer.Option(min=0, help="Seconds to wait for edges and their cloud.")]
Json = Annotated[
    str | None, typer.Option("--json", help="File for the figures; - for standard output.")
]
Plot = Annotated[Path | None, typer.Option("--plot", help="File for a picture (.png, .svg, .pdf).")]
MaxErrorShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of failed requests beyond which to exit 1.")
]
