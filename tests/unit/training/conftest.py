"""A few dozen documents and a recipe that learns from them in a second, for every training test."""

import json
import lzma
import shutil
from pathlib import Path

import pytest

from training.backbone.recipe import train
from training.backbone.schedule import Budget
from training.config import ModelSize, Objective, Stage, TrainingConfig

SENTENCE = "the king asked his daughter where the golden bird had gone that winter night"
WORDS = SENTENCE.split()


def documents(count: int, *, offset: int = 0) -> list[str]:
    """Sentences of the same few words in a regular order, so that there is something to learn."""
    return [
        " ".join(WORDS[(offset + start * step) % len(WORDS)] for step in range(1, 30)) + "."
        for start in range(1, count + 1)
    ]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with lzma.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def tiny_config() -> TrainingConfig:
    """The reference recipe at a size for tests: every stage and every loss, in float32."""
    return TrainingConfig(
        size=ModelSize(
            layers=4,
            hidden=32,
            intermediate=48,
            heads=2,
            kv_heads=1,
            vocabulary=300,
            max_positions=128,
            exits=(1, 2),
        ),
        mixture={"tales": 0.7, "talk": 0.3},
        stages=(Stage(begins=0.0, rows=4, length=16), Stage(begins=0.5, rows=2, length=32)),
        objective=Objective(layer_dropout=0.4),
        precision="fp32",
        seed=7,
    )


def write_text(folder: Path) -> Path:
    """A folder with two sources, `tales` and `talk`."""
    folder.mkdir()
    write_rows(folder / "tales.jsonl.xz", [{"text": text} for text in documents(40)])
    write_rows(folder / "talk.jsonl.xz", [{"text": text} for text in documents(20, offset=3)])
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of text that a test may change."""
    return write_text(tmp_path / "text")


@pytest.fixture
def tiny() -> TrainingConfig:
    """The recipe for tests."""
    return tiny_config()


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """A folder with running text and with prompts that have references."""
    folder = tmp_path / "held_out"
    folder.mkdir()
    texts = documents(12, offset=5)
    write_rows(folder / "stories.jsonl.xz", [{"text": text} for text in texts])
    pairs = [{"prompt": f"{text[:30]}\n", "reference": text[30:50].strip()} for text in texts]
    write_rows(folder / "questions.jsonl.xz", pairs)
    return folder


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `train` leaves it, of a model that has learned a little; not to be changed."""
    base = tmp_path_factory.mktemp("trained")
    out = base / "tandem-tiny"
    text = write_text(base / "text")
    train(text, out, work=base / "work", budget=Budget(tokens=100 * 64), config=tiny_config())
    return out


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(trained_once, tmp_path / trained_once.name))
