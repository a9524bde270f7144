"""Text becomes windows of tokens, the same ones for the same seed and step."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.unit.training.conftest import documents
from training.config import MIXTURE
from training.text.corpus import Corpus, choose_mixture, pack, prepare_corpus
from training.text.tokenizer import train_tokenizer

MIX = {"tales": 0.7, "talk": 0.3}


def _prepare(text: Path, cache: Path, vocabulary: int = 300) -> Corpus:
    return prepare_corpus(text, cache, MIX, vocabulary=vocabulary)[0]


def test_documents_are_packed_between_their_marks() -> None:
    tokenizer = train_tokenizer(documents(10), 300)
    texts = ["the king", "", "golden bird"]
    packed = list(pack(texts, tokenizer))
    assert [ids[0] for ids in packed] == [tokenizer.bos_token_id] * 3
    assert [ids[-1] for ids in packed] == [tokenizer.eos_token_id] * 3
    assert [tokenizer.decode(ids[1:-1]) for ids in packed] == texts


def test_a_source_holds_every_document_and_nothing_else(text: Path, tmp_path: Path) -> None:
    corpus, tokenizer = prepare_corpus(text, tmp_path / "cache", MIX, vocabulary=300)
    decoded = tokenizer.decode(corpus.sources["talk"].tolist())
    marked = [f"<|begin|>{document}<|end|>" for document in documents(20, offset=3)]
    assert decoded == "".join(marked)


def test_a_batch_depends_on_seed_and_step_alone(text: Path, tmp_path: Path) -> None:
    corpus = _prepare(text, tmp_path / "cache")

    def batch(seed: int, step: int) -> npt.NDArray[np.int64]:
        return corpus.batch(seed, step, rows=4, length=16, mixture=MIX)

    first = batch(1, 5)
    batch(1, 6)
    assert np.array_equal(batch(1, 5), first)
    assert not np.array_equal(batch(1, 6), first)
    assert not np.array_equal(batch(2, 5), first)


def test_windows_lie_inside_one_source_and_follow_the_shares() -> None:
    sources = {
        name: np.full(size, n, dtype=np.uint16)
        for n, (name, size) in enumerate({"tales": 1000, "talk": 50, "unread": 10}.items())
    }
    corpus = Corpus(sources, "")
    batch = corpus.batch(0, 0, rows=2000, length=8, mixture={"talk": 1, "tales": 3})
    assert batch.shape == (2000, 9)
    assert (batch.min(axis=1) == batch.max(axis=1)).all()
    assert set(batch[:, 0]) == {0, 1}
    assert batch[:, 0].mean() == pytest.approx(0.25, abs=0.03)


def test_every_token_can_be_drawn() -> None:
    corpus = Corpus({"tales": np.arange(20, dtype=np.uint16)}, "")
    batch = corpus.batch(0, 0, rows=500, length=8, mixture={"tales": 1})
    assert set(batch.flatten()) == set(range(20))


def test_a_source_shorter_than_a_window_repeats() -> None:
    corpus = Corpus({"tales": np.arange(3, dtype=np.uint16)}, "")
    batch = corpus.batch(0, 0, rows=1, length=6, mixture={"tales": 1})
    assert batch.tolist() == [[0, 1, 2, 0, 1, 2, 0]]


def test_the_cache_is_used_again_for_the_same_text_and_not_for_another(
    text: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = _prepare(text, cache)
    (shard,) = cache.glob("*/talk.bin")
    written = shard.stat().st_mtime_ns
    assert _prepare(text, cache).fingerprint == first.fingerprint
    assert shard.stat().st_mtime_ns == written
    (text / "talk.jsonl.xz").write_bytes((text / "tales.jsonl.xz").read_bytes())
    other = _prepare(text, cache)
    assert other.fingerprint != first.fingerprint
    assert len(other.sources["talk"]) == len(other.sources["tales"])


def test_a_missing_source_is_named(text: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ballads"):
        prepare_corpus(text, tmp_path / "cache", {"ballads": 1.0}, vocabulary=300)


def test_other_text_than_the_reference_is_mixed_by_size(text: Path) -> None:
    (text / "notes.txt").write_text("plain text " * 100)
    mixture = choose_mixture(text)
    assert mixture.keys() == {"tales", "talk", "notes"}
    assert sum(mixture.values()) == pytest.approx(1)
    assert mixture["tales"] > mixture["talk"]


def test_the_reference_text_is_mixed_as_the_recipe_says(tmp_path: Path) -> None:
    for source in MIXTURE:
        (tmp_path / f"{source}.jsonl.xz").touch()
    assert choose_mixture(tmp_path) == MIXTURE
    assert sum(MIXTURE.values()) == pytest.approx(1)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no"):
        choose_mixture(tmp_path)
