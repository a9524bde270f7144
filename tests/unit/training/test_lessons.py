"""What a drafter learns from: shares of text, the model's own words, and windows of both."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.unit.training.conftest import SENTENCE, write_rows
from training.heads.lessons import cut_windows, read_passages, write_answers


def test_long_documents_become_passages_and_no_source_has_more_than_its_share(
    tmp_path: Path,
) -> None:
    (tmp_path / "book.txt").write_text(SENTENCE * 100)
    write_rows(tmp_path / "talk.jsonl.xz", [{"text": SENTENCE}] * 400)
    both = read_passages([tmp_path], 10_000)
    assert max(map(len, both)) == 2000
    assert sum(map(len, both)) == pytest.approx(10_000, rel=0.25)
    alone = read_passages([tmp_path / "talk.jsonl.xz"], 1000)
    assert set(alone) == {SENTENCE}
    assert len(alone) == -(-1000 // len(SENTENCE))


def test_rows_without_text_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl.xz", [{"prompt": "a", "reference": "b"}])
    with pytest.raises(ValueError, match="without a text"):
        read_passages([tmp_path], 100)


def test_the_model_goes_on_from_beginnings_greedily_and_sampled(trained: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    passages = [[0, *range(3 + n, 60 + n)] for n in range(8)]
    done: list[tuple[int, int]] = []
    found = write_answers(
        whole, passages, 900, seed=1, progress=lambda now, all_: done.append((now, all_))
    )
    assert done[-1] == (900, 900)
    first = found[0]
    assert any(first[:8] == ids[:8] for ids in passages)
    with torch.no_grad():
        said = whole(torch.tensor([first])).logits[0].argmax(dim=-1).tolist()
    assert said[-21:-1] == first[-20:]  # the first group is greedy
    again = write_answers(whole, passages, 900, seed=1, progress=lambda _now, _all: None)
    assert again == found
    assert write_answers(whole, passages, 900, seed=2, progress=lambda _now, _all: None) != found


def test_windows_are_as_many_of_each_stream() -> None:
    long, short = [list(range(100))], [list(range(200, 230)), list(range(230, 245))]
    windows = cut_windows([long, short], 10, seed=0)
    assert windows.shape == (8, 10)
    assert (windows[:, 0] >= 200).sum() == 4
    for window in windows.tolist():
        assert window == list(range(window[0], window[0] + 10))
    assert not torch.equal(windows, cut_windows([long, short], 10, seed=1))


def test_a_stream_shorter_than_a_window_is_repeated() -> None:
    assert cut_windows([[[1, 2, 3]]], 7, seed=0).tolist() == [[1, 2, 3, 1, 2, 3, 1]]
