"""What a person sees of a run: losses by exit, speed, time left; and the commands that show it."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from training.__main__ import app
from training.backbone.checkpoint import Position
from training.backbone.loop import StepReport
from training.backbone.progress import TrainingDisplay


def _report(step: int, progress: float) -> StepReport:
    return StepReport(
        position=Position(step=step, tokens=step * 64, seconds=step * 1.0),
        progress=progress,
        losses={3: 2.0, 6: 1.5, 12: 1.25},
        tokens_per_second=2048.0,
        rate=1.0,
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_the_line_tells_losses_speed_and_time_left(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    with TrainingDisplay(console) as display:
        display(_report(100, 0.25))
    line = "step 100  exit 3 2.000  exit 6 1.500  end 1.250  2,048 tokens/s  5:00 left"
    assert line in out.getvalue()
    assert "25%" in out.getvalue()


def test_without_a_terminal_there_is_a_line_every_ten_steps() -> None:
    out = io.StringIO()
    with TrainingDisplay(Console(file=out, width=160)) as display:
        for step in range(1, 31):
            display(_report(step, step / 40))
    assert len(out.getvalue().splitlines()) == 3


def test_the_commands_tune_evaluate_and_write_the_card(trained: Path, held_out: Path) -> None:
    for command in ("tune", "evaluate"):
        result = CliRunner().invoke(app, [command, str(trained), str(held_out)])
        assert result.exit_code == 0, result.output
    assert "perplexity by layer" in result.output
    assert (trained / "README.md").exists()
