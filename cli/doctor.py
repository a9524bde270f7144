"""`tandem doctor`: what this machine is, what it takes in each format, and which one to choose.

It measures and advises; the choice stays with `tandem partition --weights`.
"""

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL
from cli.terminal import console, size_of
from shared.errors import BadModel
from shared.runtime.cores import model_threads, usable_cores

if TYPE_CHECKING:
    from shared.model.trial import Trial

# One session's next token; a verification of drafts, or as many sessions.
ROWS = (1, 8)
# A format that is faster by less than this is not worth what it loses.
WORTH = 0.9
# Weights may take so much of the memory there is: the rest is for KV, the process, and others.
SHARE = 0.7


def doctor(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint or bundle whose shapes to measure.")
    ] = SHIPPED_MODEL,
    *,
    threads: Annotated[
        int, typer.Option(min=0, help="Of the linear algebra; 0: as the services take them.")
    ] = 0,
) -> None:
    """Print this machine, a step's products in each format, and the format to choose."""
    import torch  # seconds that --help should not cost

    from shared.model.trial import FORMATS, try_format

    cores = usable_cores()
    torch.set_num_threads(model_threads(threads, cores=cores))
    memory = memory_bytes()
    terminal = console()
    for name, value in facts(cores, memory).items():
        terminal.print(f"{name:10} {value}", soft_wrap=True)
    trials = []
    with console(stderr=True).status("measuring") as status:
        for kind in FORMATS:
            status.update(f"measuring: {kind}")
            try:
                trials.append(try_format(model, kind, ROWS))
            except BadModel as error:
                raise CommandError(str(error)) from error
    terminal.print(table(model, trials))
    for line in advice(trials, memory):
        terminal.print(line, soft_wrap=True)


def facts(cores: int, memory: int) -> Mapping[str, str]:
    """What there is to know of this machine."""
    import torch

    packed = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    compiler = shutil.which("c++") or shutil.which("g++") or "none (none is needed)"
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": f"{cores} usable of {os.cpu_count()}, {torch.get_num_threads()} threads",
        "memory": size_of(memory),
        "CUDA": device,
        "torch": f"{torch.__version__}, packed products: {'yes' if packed else 'no'}",
        "compiler": compiler,
    }


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def table(model: Path, trials: "Sequence[Trial]") -> Table:
    """Formats as rows."""
    shown = Table(title=f"all matrix products of one step, {model.name}", title_justify="left")
    shown.add_column("format")
    for rows in ROWS:
        shown.add_column(f"{rows} row{'s' if rows > 1 else ''}", justify="right")
    shown.add_column("weights", justify="right")
    shown.add_column("packed", justify="right")
    for trial in trials:
        times = (f"{1e3 * seconds:.1f} ms" for seconds in trial.seconds)
        packed = "yes" if trial.packed else "no"
        shown.add_row(trial.compute_format, *times, size_of(trial.weight_bytes), packed)
    return shown


def advice(trials: "Sequence[Trial]", memory: int) -> Sequence[str]:
    """Which format each side should have, and why.

    Formats are in the order of what they lose. int4 loses far more than the others (texts differ),
    so it is the choice only where no other fits into memory; where it is faster, that is said.
    """
    fitting = [trial for trial in trials if trial.weight_bytes <= SHARE * memory]
    if not fitting:
        return [f"No format of this model fits into {size_of(memory)}: hold fewer layers here."]
    careful = [trial for trial in fitting if trial.compute_format != "int4"]
    if not careful:
        return ["Choose int4 on both sides: nothing else fits into memory."]
    lines = []
    for side, index in (("edge", 0), ("cloud", 1)):
        best = careful[0]
        for trial in careful[1:]:
            if trial.seconds[index] < WORTH * best.seconds[index]:
                best = trial
        option = "--weights" if side == "edge" else "--cloud-weights"
        lines.append(
            f"{side}: {option} {best.compute_format} ({1e3 * best.seconds[index]:.1f} ms at "
            f"{ROWS[index]} row{'s' if index else ''}; nothing that loses less is within a tenth)"
        )
    quick = next((trial for trial in fitting if trial.compute_format == "int4"), None)
    fastest = min(trial.seconds[0] for trial in careful)
    if quick is not None and quick.seconds[0] < WORTH * fastest:
        lines.append(
            f"int4 takes {1e3 * quick.seconds[0]:.1f} ms at 1 row, with other texts: for an edge "
            "with one user, if that is acceptable."
        )
    return lines


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
