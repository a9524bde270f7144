"""A calibration beside a checkpoint goes into the edge's bundle, where it is of that very model and
those very exits.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import BadModel
from shared.exits.calibration import FILE, file_of, read_agreement
from shared.model import Manifest, write_bundles
from tests.support.agreements import made_up
from tests.support.tiny_models import write_checkpoint

SPLIT, EDGE_DEPTH = 2, 3


def cut(source: Path, out: Path, split: int = SPLIT, edge_format: str = "fp32") -> Manifest:
    edge, _ = write_bundles(
        source,
        out,
        split=split,
        edge_depth=EDGE_DEPTH,
        edge_format=edge_format,
        cloud_format="fp32",
        protocol_version=7,
    )
    return edge


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint("llama", tmp_path / "source")


def test_the_edge_gets_the_calibration_of_its_exits(source: Path, tmp_path: Path) -> None:
    fingerprint = cut(source, tmp_path / "before").fingerprint
    agreement = made_up(fingerprint, [SPLIT, EDGE_DEPTH])
    agreement.write(source / FILE)
    cut(source, tmp_path)
    assert read_agreement(tmp_path / "edge" / FILE) == agreement
    assert not (tmp_path / "cloud" / FILE).exists()


def test_so_it_gets_that_for_drawn_tokens(source: Path, tmp_path: Path) -> None:
    fingerprint = cut(source, tmp_path / "before").fingerprint
    drawn = replace(made_up(fingerprint, [SPLIT, EDGE_DEPTH]), text="sampled")
    drawn.write(source / file_of(text="sampled"))
    cut(source, tmp_path)
    assert read_agreement(tmp_path / "edge" / file_of(text="sampled")) == drawn
    assert not (tmp_path / "edge" / FILE).exists()
    (source / file_of(text="sampled")).unlink()
    cut(source, tmp_path)
    assert not (tmp_path / "edge" / file_of(text="sampled")).exists()


@pytest.mark.parametrize("left_over", [False, True])
def test_that_of_other_exits_stays_where_it_is(
    source: Path, tmp_path: Path, *, left_over: bool
) -> None:
    fingerprint = cut(source, tmp_path / "before").fingerprint
    made_up(fingerprint, [SPLIT, EDGE_DEPTH]).write(source / FILE)
    if left_over:
        cut(source, tmp_path)
    cut(source, tmp_path, split=1)
    assert not (tmp_path / "edge" / FILE).exists()


@pytest.mark.parametrize(("weights", "given"), [("bf16", True), ("int8", True), ("int4", False)])
def test_an_edge_too_coarse_for_it_gets_none(
    source: Path, tmp_path: Path, weights: str, *, given: bool
) -> None:
    fingerprint = cut(source, tmp_path / "before").fingerprint
    made_up(fingerprint, [SPLIT, EDGE_DEPTH]).write(source / FILE)
    cut(source, tmp_path, edge_format=weights)
    assert (tmp_path / "edge" / FILE).exists() == given


def test_that_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    made_up("0" * 64, [SPLIT, EDGE_DEPTH]).write(source / FILE)
    with pytest.raises(BadModel, match="measured on another model"):
        cut(source, tmp_path)


def test_that_of_other_exits_of_this_model_is_refused(source: Path, tmp_path: Path) -> None:
    fingerprint = cut(source, tmp_path / "before").fingerprint
    agreement = made_up(fingerprint, [SPLIT, EDGE_DEPTH])
    replace(agreement, exits_sha256="0" * 64).write(source / FILE)
    with pytest.raises(BadModel, match="measured on other exits"):
        cut(source, tmp_path)


def test_one_made_with_a_drafter_is_for_no_bundle_without(source: Path, tmp_path: Path) -> None:
    fingerprint = cut(source, tmp_path / "before").fingerprint
    made_up(fingerprint, [SPLIT, EDGE_DEPTH]).write(source / file_of((SPLIT, EDGE_DEPTH)))
    cut(source, tmp_path)
    assert not (tmp_path / "edge" / FILE).exists()
