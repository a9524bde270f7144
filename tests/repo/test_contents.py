"""What may lie in the repository: no large files, no addresses of registries, nothing generated."""

import re

from tests.repo.tree import ROOT, files, name

MB = 1024 * 1024
WEIGHTS_BYTES = 32 * MB
SHARD_BYTES = 15 * MB
SOURCE_BYTES = 1 * MB
# Where packages come from is the machine's to say. Written in pieces: this file is searched too.
REGISTRIES = re.compile(
    r"|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("registry", "npmjs", "org"),
            ("index", "docker", "io"),
            ("conda", "anaconda", "org"),
        )
    )
)


def test_weights_stay_under_32_mb_in_shards_under_15_mb() -> None:
    weights = {name(file): file.stat().st_size for file in files(".safetensors")}
    assert sum(weights.values()) <= WEIGHTS_BYTES, weights
    assert not {file: size for file, size in weights.items() if size >= SHARD_BYTES}


def test_every_other_file_is_under_1_mb_beside_tokenizers() -> None:
    large = {
        name(file): file.stat().st_size
        for file in files()
        if file.suffix != ".safetensors" and file.name != "tokenizer.json"
    }
    assert not {file: size for file, size in large.items() if size >= SOURCE_BYTES}


def test_no_file_names_a_package_registry() -> None:
    named = {
        name(file): found
        for file in files()
        if file.suffix != ".safetensors"
        if (found := REGISTRIES.findall(file.read_bytes().decode(errors="ignore")))
    }
    assert not named


def test_what_is_generated_is_ignored() -> None:
    generated = {".venv", ".bundles", "__pycache__", ".hypothesis", ".env"}
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert generated <= ignored
