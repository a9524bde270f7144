"""What `tandem doctor` finds and advises."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.doctor import ROWS, advice
from cli.main import app
from shared.model.trial import FORMATS, Trial, try_format
from tests.support.tiny_models import checkpoint

GIB = 1024**3


def trials(**seconds: tuple[float, float]) -> list[Trial]:
    size = {"fp32": 4 * GIB, "bf16": 2 * GIB, "int8": GIB, "int4": GIB // 2}
    return [Trial(kind, each, size[kind], 4) for kind, each in seconds.items()]


def test_a_format_that_loses_more_is_chosen_only_where_it_is_clearly_faster() -> None:
    found = trials(fp32=(1.0, 1.0), bf16=(0.95, 0.5), int8=(0.94, 0.47), int4=(0.92, 0.9))
    edge, cloud = advice(found, 64 * GIB)
    assert edge.startswith("edge: --weights fp32 ")
    assert cloud.startswith("cloud: --cloud-weights bf16 ")


def test_int4_is_named_where_it_is_faster_but_chosen_only_where_nothing_else_fits() -> None:
    found = trials(fp32=(1.0, 1.0), bf16=(0.5, 0.5), int8=(0.4, 0.4), int4=(0.2, 0.6))
    edge, cloud, more = advice(found, 64 * GIB)
    assert "int8" in edge
    assert "int8" in cloud
    assert more.startswith("int4 takes 200.0 ms at 1 row")
    assert advice(found, GIB)[0].startswith("Choose int4 on both sides")
    assert "hold fewer layers" in advice(found, GIB // 2)[0]


def test_what_does_not_fit_is_not_chosen() -> None:
    found = trials(fp32=(0.1, 0.1), bf16=(0.5, 0.5), int8=(0.6, 0.6))
    assert "bf16" in advice(found, 4 * GIB)[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_tried_on_the_models_shapes(kind: str) -> None:
    found = try_format(checkpoint("qwen3"), kind, ROWS)
    assert len(found.seconds) == len(ROWS)
    assert all(seconds > 0 for seconds in found.seconds)
    assert found.packed == 7


def test_weights_are_counted_as_they_are_kept() -> None:
    sizes = [try_format(checkpoint("llama"), kind, (1,)).weight_bytes for kind in FORMATS]
    assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.01)
    assert sizes[1] > sizes[2] > sizes[3]


def test_the_command_prints_the_machine_the_formats_and_a_choice() -> None:
    found = CliRunner().invoke(app, ["doctor", str(checkpoint("llama"))])
    assert found.exit_code == 0, found.output
    for word in ("processor", "cores", "memory", "torch", *FORMATS, "edge:", "cloud:"):
        assert word in found.output


def test_a_folder_without_a_model_is_said_to_be_one(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert found.exit_code != 0
    assert "config.json" in str(found.exception)
