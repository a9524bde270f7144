"""A sequence ends for the right reason, once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decoding.sampling import PrefixState
from shared.decoding.sequence import Sequence


def _sequence(max_new_tokens: int = 3) -> Sequence:
    return Sequence([5, 6], max_new_tokens=max_new_tokens, eos_ids=(1, 2))


def test_a_sequence_ends_at_its_length() -> None:
    sequence = _sequence()
    for left, token in ((3, 7), (2, 8), (1, 7)):
        assert (sequence.finished, sequence.tokens_left) == (False, left)
        sequence.append(token)
    assert (sequence.finish_reason, sequence.tokens_left) == ("length", 0)
    assert (sequence.ids, sequence.generated) == ([5, 6, 7, 8, 7], [7, 8, 7])


@pytest.mark.parametrize("max_new_tokens", [1, 3])
def test_an_end_of_sequence_is_the_reason_even_as_the_last_token_allowed(
    max_new_tokens: int,
) -> None:
    sequence = _sequence(max_new_tokens)
    sequence.append(2)
    assert (sequence.finish_reason, sequence.tokens_left) == ("eos_token", 0)


@pytest.mark.parametrize("max_new_tokens", [1, 3])
def test_a_stop_string_stands_above_the_length(max_new_tokens: int) -> None:
    sequence = _sequence(max_new_tokens)
    sequence.append(7)
    sequence.finish("stop_sequence")
    assert (sequence.finish_reason, sequence.tokens_left) == ("stop_sequence", 0)


def test_the_prefix_folds_every_token() -> None:
    sequence = _sequence()
    sequence.append(9)
    assert sequence.prefix == PrefixState.start([5, 6]).advance(9)


def test_an_end_of_sequence_id_in_the_prompt_ends_nothing() -> None:
    assert not Sequence([1, 5, 2], max_new_tokens=1, eos_ids=(1, 2)).finished


def test_nothing_follows_the_end() -> None:
    sequence = _sequence(max_new_tokens=1)
    sequence.append(7)
    with pytest.raises(AssertionError, match="after the end"):
        sequence.append(8)


def test_a_sequence_that_could_never_begin_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt"):
        Sequence([], max_new_tokens=1, eos_ids=())
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        Sequence([5], max_new_tokens=0, eos_ids=())


@given(
    output=st.lists(st.integers(0, 9), max_size=80),
    after=st.lists(st.integers(0, 9), max_size=5),
    data=st.data(),
)
def test_what_is_truncated_was_never_there(
    output: list[int], after: list[int], data: st.DataObject
) -> None:
    kept = data.draw(st.integers(0, len(output)))
    back = Sequence([5, 6], max_new_tokens=100, eos_ids=())
    straight = Sequence([5, 6], max_new_tokens=100, eos_ids=())
    for token in output:
        back.append(token)
    back.truncate(2 + kept)
    for token in after:
        back.append(token)
    for token in [*output[:kept], *after]:
        straight.append(token)
    assert (back.ids, back.tokens_left) == (straight.ids, straight.tokens_left)
    assert back.prefix.generated == straight.prefix.generated
    assert back.prefix.seen == straight.prefix.seen


def test_a_text_whose_end_is_truncated_goes_on() -> None:
    sequence = Sequence([5], max_new_tokens=4, eos_ids=[2])
    sequence.append(8)
    sequence.append(2)
    assert sequence.finish_reason == "eos_token"
    sequence.truncate(2)
    assert (sequence.finished, sequence.tokens_left) == (False, 3)
