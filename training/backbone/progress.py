"""A training run as one living line in the terminal: losses, speed, time left.

It knows what a step reports; it does not know what a step does.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from training.backbone.loop import StepReport

_SMOOTHING = 0.95
_REFRESH_EVERY = 5
_LINE_EVERY = 10


class TrainingDisplay:
    """Call it with every report; without a terminal it writes a plain line every 10 steps."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._smooth: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=1.0, line="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, report: StepReport) -> None:
        """Show one step."""
        for layer, loss in report.losses.items():
            self._average(str(layer), loss)
        self._average("speed", report.tokens_per_second)
        step = report.position.step
        if self._console.is_terminal and step % _REFRESH_EVERY == 0:
            self._bar.update(self._task, completed=report.progress, line=self._line(report))
        elif not self._console.is_terminal and step % _LINE_EVERY == 0:
            self._console.print(f"{report.progress:4.0%}  {self._line(report)}")

    def _average(self, name: str, value: float) -> None:
        before = self._smooth.get(name, value)
        self._smooth[name] = _SMOOTHING * before + (1 - _SMOOTHING) * value

    def _line(self, report: StepReport) -> str:
        layers = sorted(report.losses)
        names = [f"exit {layer}" for layer in layers[:-1]] + ["end"]
        losses = "  ".join(
            f"{name} {self._smooth[str(layer)]:.3f}"
            for name, layer in zip(names, layers, strict=True)
        )
        return (
            f"step {report.position.step:,}  {losses}  {self._smooth['speed']:,.0f} tokens/s  "
            f"{_clock(_seconds_left(report))} left"
        )


def _seconds_left(report: StepReport) -> float:
    """Time to the end of the budget, from the share spent so far."""
    if report.progress <= 0:
        return 0.0
    return report.position.seconds * (1 - report.progress) / report.progress


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
