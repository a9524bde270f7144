"""What is often given for a bundle, and what is said of it."""

import os
from pathlib import Path

import pytest

from shared.errors import BadModel
from shared.model import load_bundle
from tests.support.reference import bundles
from tests.support.tiny_models import checkpoint


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=f"there is no folder {tmp_path / 'nowhere'}"):
        load_bundle(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadModel, match="there is no folder"):
        load_bundle(tmp_path / "file")


def test_a_checkpoint_is_told_from_a_bundle() -> None:
    with pytest.raises(BadModel, match=r"is a checkpoint .* `tandem partition`"):
        load_bundle(checkpoint("qwen3"))


def test_the_folder_of_both_bundles_names_them() -> None:
    with pytest.raises(BadModel, match="in folders of their own: edge and cloud"):
        load_bundle(bundles().edge.parent)


def test_an_empty_folder_holds_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="holds no bundle"):
        load_bundle(tmp_path)


def test_a_folder_one_may_not_read_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BadModel, match=r"may not be read by user \d+"):
        load_bundle(tmp_path)
