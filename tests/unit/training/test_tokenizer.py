"""Every text comes back from its tokens as it went in, whatever it was trained on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.unit.training.conftest import documents
from training.text.tokenizer import BEGIN, END, PAD, train_tokenizer

TOKENIZER = train_tokenizer(documents(20), 320)


@pytest.fixture
def loaded(tmp_path: Path) -> PreTrainedTokenizerFast:
    TOKENIZER.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


@given(st.text().filter(lambda text: not any(mark in text for mark in (BEGIN, END, PAD))))
def test_any_unicode_text_survives(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "text", ["  two  spaces , and .", "a\r\n\tb\n\n", "’– 字 🙂 é", "\x00\x7f"]
)
def test_awkward_text_survives_saving_and_loading(
    loaded: PreTrainedTokenizerFast, text: str
) -> None:
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text


def test_every_byte_has_a_token_of_its_own() -> None:
    assert len(TOKENIZER) <= 320
    single = [token for token in TOKENIZER.get_vocab() if len(token) == 1]
    assert len(single) == 256


def test_a_document_begins_with_its_mark_and_knows_its_end(
    loaded: PreTrainedTokenizerFast,
) -> None:
    assert loaded("the king")["input_ids"][0] == loaded.bos_token_id
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == (BEGIN, END, PAD)
    assert len({loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id}) == 3


def test_common_words_are_single_tokens_and_digits_stay_apart() -> None:
    assert len(TOKENIZER(" king", add_special_tokens=False)["input_ids"]) == 1
    assert len(TOKENIZER("2024", add_special_tokens=False)["input_ids"]) == 4
