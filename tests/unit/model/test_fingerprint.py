"""The fingerprint names a model: its configuration and every byte of its weights."""

import json
from pathlib import Path

import pytest

from shared.model.checkpoint import read_checkpoint
from shared.model.fingerprint import fingerprint
from tests.support.tiny_models import checkpoint, write_checkpoint


def of(folder: Path) -> str:
    return fingerprint(folder, read_checkpoint(folder))


def test_it_changes_with_any_tensors_any_byte(tmp_path: Path) -> None:
    write_checkpoint("qwen2", tmp_path)
    clean = of(tmp_path)
    seen = {clean}
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    tensors = read_checkpoint(tmp_path).values()
    for tensor in tensors:
        for place in (tensor.offset, tensor.offset + tensor.nbytes - 1):
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            seen.add(of(tmp_path))
    assert len(seen) == 1 + 2 * len(tensors)
    path.write_bytes(data)
    assert of(tmp_path) == clean


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta", "head_dim"])
def test_it_changes_with_the_configuration(key: str, tmp_path: Path) -> None:
    write_checkpoint("qwen3", tmp_path)
    clean = of(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 0.125}))
    assert of(tmp_path) != clean


def test_it_does_not_depend_on_files_or_on_who_saved_them(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path, max_shard_size="20KB")
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "transformers_version": "5.20.0"}, indent=7))
    assert of(tmp_path) == of(checkpoint("llama"))
    assert len(of(tmp_path)) == 64
