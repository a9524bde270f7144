"""Where a checkpoint may be cut, as far as the command line knows: at its trained exits."""

import json
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.partition import exits_beside, untrained


def with_exits(folder: Path, *layers: int) -> Path:
    (folder / "exits.json").write_text(json.dumps({"exits": [{"layer": n} for n in layers]}))
    return folder


def test_a_cut_at_trained_exits_is_no_reason_to_warn(tmp_path: Path) -> None:
    model = with_exits(tmp_path, 6, 3)
    assert exits_beside(model) == (3, 6)
    assert untrained(model, 3, 6) is None
    assert untrained(model, 6, 6) is None


@pytest.mark.parametrize(
    ("cut", "named"), [((3, 5), "layer 5;"), ((2, 5), "layer 2 and 5;"), ((4, 4), "layer 4;")]
)
def test_a_cut_elsewhere_names_the_layers_and_the_trained_ones(
    cut: tuple[int, int], named: str, tmp_path: Path
) -> None:
    warning = untrained(with_exits(tmp_path, 3, 6), *cut)
    assert warning is not None
    assert named in warning
    assert "trained are those of 3, 6" in warning


@pytest.mark.parametrize("content", [None, "{", "[]", '{"exits": [{}]}', '{"exits": []}'])
def test_without_trained_exits_the_cut_is_the_callers_to_name(
    content: str | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "exits.json").write_text(content)
    with pytest.raises(CommandError, match="or, to partition"):
        exits_beside(tmp_path)
    assert "none are" in str(untrained(tmp_path, 1, 2))
