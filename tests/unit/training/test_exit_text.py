"""Documents: who may learn from what, and files that are no text."""

import json
from pathlib import Path

import pytest

from tests.unit.training.conftest import write_rows
from training.text.exit_text import HELD_OUT, read_documents, split_documents, without


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def read(*paths: Path, tokens: int = 10_000) -> list[str]:
    return ["".join(map(chr, ids)) for ids in read_documents(paths, encode, tokens=tokens)]


def test_files_of_every_kind_are_read_and_take_turns(tmp_path: Path) -> None:
    write_rows(tmp_path / "tales.jsonl.xz", [{"text": "tale one"}, {"text": "tale two"}])
    rows = [{"prompt": "why? ", "reference": "because"}, {"prompt": "how?"}]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "book.txt").write_text("a whole book")
    found = read(tmp_path)
    assert found[:3] == ["a whole book", "tale one", "why? because"]
    assert found[3:] == ["tale two", "how?"]


def test_two_files_of_one_name_are_both_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tales.txt").write_text(f"from {name}")
    assert set(read(tmp_path / "a", tmp_path / "b")) == {"from a", "from b"}


def test_no_more_is_read_than_asked_for_and_of_no_document_more_than_its_beginning(
    tmp_path: Path,
) -> None:
    (tmp_path / "book.txt").write_text("long " * 10_000)
    write_rows(tmp_path / "tales.jsonl.xz", [{"text": f"tale {n}"} for n in range(500)])
    book, *tales = read(tmp_path, tokens=400)
    assert len(book) == 8_000
    assert 0 < len(tales) < 500


def test_documents_are_on_one_side_whatever_else_there_is() -> None:
    documents = [encode(f"document {n}") for n in range(200)]
    learned, judged = split_documents([*documents, *documents[:50]])
    assert len(learned) + len(judged) == 200
    assert len(judged) == 200 // HELD_OUT
    assert sorted([*learned, *judged]) == sorted(documents)
    assert sorted(split_documents(reversed(documents))[1]) == sorted(judged)
    assert without(documents, judged) == learned


def test_of_few_documents_one_is_held_out() -> None:
    learned, judged = split_documents([[1, 2], [1, 2], [3]])
    assert sorted([learned, judged]) == [[[1, 2]], [[3]]]


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        split_documents([[1, 2], [1, 2]])


@pytest.mark.parametrize("line", ["no json", '"a text"', "[1]", '{"title": "x"}'])
def test_what_is_no_text_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "talk.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"talk\.jsonl holds what is no text"):
        read(tmp_path)


def test_a_file_that_is_not_compressed_as_it_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl.xz").write_text("plain\n")
    with pytest.raises(ValueError, match="holds what is no text"):
        read(tmp_path)


def test_a_folder_without_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file of text"):
        read(tmp_path)
