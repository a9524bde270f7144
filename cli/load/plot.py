"""A load's outcome as a picture: tokens a second over time by edge, and how long users waited."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cli.errors import CommandError
from cli.load.requests import Seen


def check(file: Path) -> None:
    """Whether a picture can be written to `file`, before anything is measured for it.

    Raises:
        CommandError: not there, not in such a format, or matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise CommandError("--plot needs matplotlib, which is not installed") from error
    if file.suffix.removeprefix(".") not in FigureCanvasAgg.get_supported_filetypes():
        raise CommandError(f"--plot {file}: no picture has such a name; .png, .svg and .pdf do")
    if not file.parent.is_dir():
        raise CommandError(f"--plot {file}: there is no folder {file.parent}")


def plot(seen: Sequence[Seen], *, started: float, window: float, file: Path) -> None:
    """Write the picture; the suffix of `file` chooses the format (.png, .svg, .pdf).

    Raises:
        CommandError: it cannot be written, or in no such format.
    """
    import matplotlib as mpl  # a second, that no other use of the command should cost

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (rate, waits) = pyplot.subplots(2, 1, figsize=(10, 7), layout="constrained")
    for name in sorted({each.edge for each in seen}):
        seconds = Counter(
            int(time - started)
            for each in seen
            if each.edge == name
            for time in each.token_times
            if time <= started + window
        )
        whole = range(int(window))
        rate.plot(whole, [seconds[second] for second in whole], label=name)
    rate.set(xlabel="seconds", ylabel="tokens a second", ylim=(0, None))
    rate.legend(title="edge", loc="upper left", fontsize="small")
    for label, times in (
        ("time to first token", [e.token_times[0] - e.due for e in seen if e.token_times]),
        (
            "time between tokens",
            [b - a for e in seen for a, b in zip(e.token_times, e.token_times[1:], strict=False)],
        ),
        ("whole request", [e.ended - e.due for e in seen if e.ended and e.error is None]),
    ):
        if times:
            waits.ecdf([1000 * time for time in times], label=label)
    waits.set(xscale="log", xlabel="milliseconds", ylabel="share of all that waited no longer")
    waits.legend(loc="lower right", fontsize="small")
    waits.grid(visible=True, which="both", alpha=0.3)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise CommandError(f"{file} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)
