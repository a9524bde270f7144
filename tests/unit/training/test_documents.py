"""Files of documents: what a row may be, and that a bad one is named by its line."""

import lzma
from pathlib import Path

import pytest

from training.text.documents import BadDocuments, Document, Prompt, fitting, read_documents

GOOD = '{"prompt": "a b", "reference": "c", "category": 3}\n\n{"prompt": "é"}\n{"text": "all"}\n'
FOUND = [
    Document(line=1, prompt="a b", reference="c"),
    Document(line=3, prompt="é"),
    Document(line=4, text="all"),
]


def test_rows_are_read_with_their_lines_packed_or_not(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.xz"
    plain.write_text(GOOD)
    packed.write_bytes(lzma.compress(GOOD.encode()))
    assert list(read_documents(plain)) == list(read_documents(packed)) == FOUND


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "line 2: no JSON"),
        (b'{"prompt": "\xff"}', "line 2: no JSON in UTF-8"),
        (b'["prompt"]', "line 2: a row is an object"),
        (b'{"question": "?"}', "line 2: a row has .* here is 'question'"),
        (b'{"prompt": 3}', 'line 2: "prompt" is a string, not int'),
        (b'{"prompt": null}', 'line 2: "prompt" is a string'),
        (b'{"prompt": "a", "reference": ["b"]}', 'line 2: "reference" is a string, not list'),
        (b'{"text": "a", "reference": "b"}', "line 2: a reference needs its prompt"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_reason(line: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "good"}\n' + line + b"\n")
    rows = read_documents(path)
    assert next(rows).prompt == "good"
    with pytest.raises(BadDocuments, match=f"rows.jsonl, {told}"):
        next(rows)


def test_a_file_that_is_cut_short_or_empty_is_no_file_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.xz"
    path.write_bytes(lzma.compress(GOOD.encode())[:-20])
    with pytest.raises(BadDocuments, match="cannot be unpacked"):
        list(read_documents(path))
    path.write_bytes(b"no archive")
    with pytest.raises(BadDocuments, match="cannot be unpacked"):
        list(read_documents(path))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(BadDocuments, match="no rows"):
        list(read_documents(empty))


def test_prompts_fit_where_they_have_some_tokens_and_not_too_many() -> None:
    documents = [
        *FOUND,
        Document(line=5, prompt=""),
        Document(line=6, prompt="a b c"),
    ]
    found = list(fitting(documents, lambda text: [len(word) for word in text.split()], longest=2))
    assert found == [Prompt("a b", (1, 1), "c", 1), Prompt("é", (1,), None, 3)]
