"""Text to ids and back: pieces add up to the whole decode, and stop strings cut it."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from services.edge.text import Detokenizer, StopWatch, StreamDecoder, TextCodec
from shared.errors import BadModel

SENTENCES = [
    "The cat sat on the mat, and the dog sat on the log.",
    "Once upon a time there was a little fox. Il était une fois un garçon naïf.",
    "中文字符,日本語のテキスト。 Привет, мир! 🙂👩‍👩‍👧 🙂🙃",
]
VOCABULARY = 400
PADDED = VOCABULARY + 50  # a model's vocabulary may be larger than its tokenizer's

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
IDS = st.lists(st.integers(0, PADDED - 1), max_size=120)
PROSE = st.text("ab \n.é中🙂", max_size=60)
STOPS = st.lists(st.text("ab \n.é中🙂", min_size=1, max_size=5), max_size=4)


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens(["<étape>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """A tokenizer as of SentencePiece: words begin with a mark, what is unknown becomes bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "ab", "▁a", "▁ab", "é", "."]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    merges = [("a", "b"), ("▁", "a"), ("▁a", "b")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    marks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*marks, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _codec(folder: Path, tokenizer: Tokenizer) -> TextCodec:
    tokenizer.save(str(folder / "tokenizer.json"))
    return TextCodec(folder)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return _codec(tmp_path_factory.mktemp("byte_level"), _byte_level())


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return _codec(tmp_path_factory.mktemp("byte_fallback"), _byte_fallback())


def _stream(decoder: StreamDecoder | Detokenizer, ids: Iterable[int]) -> list[str]:
    return [*(decoder.push(token) for token in ids), decoder.flush()]


def _cut(text: str, stops: list[str]) -> str:
    """Read one character after the other until a stop string is complete; the longest counts."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))]
    return text


@given(text=TEXT)
def test_text_survives_the_way_to_ids_and_back(codec: TextCodec, text: str) -> None:
    ids = codec.encode(text)
    assert ids[0] == 0
    assert codec.decode(ids) == text
    assert "".join(_stream(codec.decoder(), ids)) == text


@given(ids=IDS)
def test_pieces_of_any_ids_add_up_to_the_whole_decode(codec: TextCodec, ids: list[int]) -> None:
    assert "".join(_stream(codec.decoder(), ids)) == codec.decode(ids)


@given(
    ids=st.lists(st.sampled_from(["🙂", "中", "é", "a"]), min_size=1, max_size=60), data=st.data()
)
def test_pieces_of_bytes_cut_anywhere_add_up(
    codec: TextCodec, ids: list[str], data: st.DataObject
) -> None:
    """Single bytes, some of them lost: long runs that are no characters."""
    symbols = [token for text in ids for byte in text.encode() for token in [_byte_id(codec, byte)]]
    kept = data.draw(st.lists(st.booleans(), min_size=len(symbols), max_size=len(symbols)))
    broken = [token for token, keep in zip(symbols, kept, strict=True) if keep]
    assert "".join(_stream(codec.decoder(), broken)) == codec.decode(broken)
    assert "".join(_stream(codec.decoder(), symbols)) == "".join(ids)


@pytest.mark.parametrize("broken", [0x80, 0xE4, 0xF0])
def test_characters_after_a_long_broken_stretch_are_whole(codec: TextCodec, broken: int) -> None:
    for length in range(20, 60):
        stretch = [broken] * length + list("🙂中🙂a".encode())
        ids = [_byte_id(codec, byte) for byte in stretch]
        assert "".join(_stream(codec.decoder(), ids)) == codec.decode(ids)


def _byte_id(codec: TextCodec, byte: int) -> int:
    """The id of the token that is this byte alone: its place in the order of the alphabet."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [each for each in range(256) if each not in shown]
    return 2 + (shown + unseen).index(byte)


@given(text=TEXT)
def test_a_character_is_held_until_it_is_whole(codec: TextCodec, text: str) -> None:
    text = text.replace("\N{REPLACEMENT CHARACTER}", "")
    pieces = _stream(codec.decoder(), codec.encode(text))
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_character_leaves_with_its_last_byte(codec: TextCodec) -> None:
    decoder = codec.decoder()
    pieces = [decoder.push(_byte_id(codec, byte)) for byte in "a🙂é".encode()]
    assert pieces == ["a", "", "", "", "🙂", "", "é"]


def test_half_a_character_is_flushed_at_the_end(codec: TextCodec) -> None:
    decoder = codec.decoder()
    assert decoder.push(_byte_id(codec, 0xE4)) == ""
    assert decoder.flush() == "\N{REPLACEMENT CHARACTER}"
    assert decoder.flush() == ""


@given(text=st.text("ab .éß中🙂", max_size=80))
def test_pieces_add_up_for_a_tokenizer_that_falls_back_to_bytes(
    fallback: TextCodec, text: str
) -> None:
    ids = fallback.encode(text)
    assert fallback.decode(ids) == text
    assert "".join(_stream(fallback.decoder(), ids)) == text


@given(words=st.lists(st.sampled_from([0, 1, *range(259, 267), 280]), max_size=150))
def test_pieces_of_any_words_add_up_where_spaces_are_marks(
    fallback: TextCodec, words: list[int]
) -> None:
    assert "".join(_stream(fallback.decoder(), words)) == fallback.decode(words)


@pytest.mark.parametrize(
    ("silent", "count"), [(1, 50), (5_000, 50), (260, 9)], ids=["special", "unknown", "removed"]
)
def test_a_space_survives_tokens_without_text(tmp_path: Path, silent: int, count: int) -> None:
    tokenizer = _byte_fallback()
    marks = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([decoders.Replace("a", ""), *marks])
    codec, dot, mark = _codec(tmp_path, tokenizer), 266, 259
    assert codec.decode([silent]) == ""
    ids = [dot, silent, mark, dot, *[silent] * count, mark, dot]
    assert "".join(_stream(codec.decoder(), ids)) == codec.decode(ids) == ". . ."


def test_a_long_text_costs_the_same_per_token_wherever_it_is(
    codec: TextCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    whole = TextCodec.decode

    def counted(self: TextCodec, ids: Iterable[int]) -> str:
        ids = list(ids)
        decoded.append(len(ids))
        return whole(self, ids)

    monkeypatch.setattr(TextCodec, "decode", counted)
    broken, special, straddling = [_byte_id(codec, 0xE4)], [0], [_byte_id(codec, 0x80), 300]
    for ids in (broken, special, straddling, codec.encode(SENTENCES[0])):
        decoded.clear()
        tokens = ids * (2_000 // len(ids))
        _stream(codec.decoder(), tokens)
        assert sum(decoded) <= 40 * len(tokens)


@given(text=PROSE, stops=STOPS, data=st.data())
def test_the_cut_does_not_depend_on_how_the_text_is_divided(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    borders = data.draw(st.lists(st.integers(0, len(text)), max_size=10).map(sorted))
    watch = StopWatch(stops)
    parts = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    given_away = "".join(watch.push(part) for part in parts) + watch.flush()
    assert given_away == _cut(text, stops)
    assert watch.stopped == any(stop in text for stop in stops)


@given(text=PROSE, stops=STOPS)
def test_stops_are_found_across_tokens(codec: TextCodec, text: str, stops: list[str]) -> None:
    decoder = codec.decoder(stops)
    pieces = _stream(decoder, codec.encode(text))
    assert "".join(pieces) == _cut(text, stops)
    assert decoder.stopped == any(stop in text for stop in stops)


@given(text=PROSE, stops=STOPS)
def test_no_more_is_held_back_than_may_be_a_stop_string(text: str, stops: list[str]) -> None:
    watch, sent = StopWatch(stops), ""
    for end, character in enumerate(text, start=1):
        sent += watch.push(character)
        if watch.stopped:
            break
        held = text[len(sent) : end]
        assert text.startswith(sent)
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize("pieces", [["abcd"], ["a", "b", "c", "d"], ["ab", "cd"]])
def test_the_stop_string_complete_first_counts(pieces: list[str]) -> None:
    watch = StopWatch(["bcd", "c"])
    assert "".join(watch.push(piece) for piece in pieces) == "ab"


def test_nothing_comes_after_a_stop_string() -> None:
    watch = StopWatch(["\n\n", "END"])
    assert [watch.push(piece) for piece in ("one\n", "EN", "D two", "three")] == [
        "one",
        "\n",
        "",
        "",
    ]
    assert (watch.stopped, watch.flush()) == (True, "")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopWatch(["a", ""])


def _write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def test_every_file_may_name_an_end_of_text(tmp_path: Path) -> None:
    assert _codec(tmp_path, _byte_level()).eos_ids == ()
    _write(tmp_path, "config.json", {"eos_token_id": 7})
    _write(tmp_path, "generation_config.json", {"eos_token_id": [9, 7]})
    assert TextCodec(tmp_path).eos_ids == (7, 9)
    for named in ("</s>", {"content": "</s>", "special": True}):
        _write(tmp_path, "tokenizer_config.json", {"eos_token": named})
        assert TextCodec(tmp_path).eos_ids == (1, 7, 9)


@pytest.mark.parametrize("wrong", ["2", [1, None], [[3]], True, -1, {"a": 1}])
def test_an_end_of_text_that_is_no_id_is_refused(tmp_path: Path, wrong: object) -> None:
    _write(tmp_path, "config.json", {"eos_token_id": wrong})
    with pytest.raises(BadModel, match="eos_token_id"):
        _codec(tmp_path, _byte_level())


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"tokenizer\.json"):
        TextCodec(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["[]", "{", "\x00"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    _byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_text(content)
    with pytest.raises(BadModel, match=f"/{name}"):
        TextCodec(tmp_path)
