"""A decoder tells where a text would end before it takes the tokens, and is the same afterwards."""

from hypothesis import given
from hypothesis import strategies as st

from services.edge.text import StreamDecoder
from tests.support.reference import text

TEXT = "Once upon a time, 🦎 and Ünal went to the sea. \n\nThe end."


@given(
    stops=st.lists(
        st.sampled_from(["time,", "🦎 a", "nal w", "sea. ", "\n\n", "x", "."]), max_size=3
    ),
    taken=st.integers(0, 40),
    looks=st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
def test_looking_ahead_sees_what_taking_would_and_changes_nothing(
    stops: list[str], taken: int, looks: list[int]
) -> None:
    ids = text().encode(TEXT)
    looking, plain = StreamDecoder(text(), stops), StreamDecoder(text(), stops)
    for token in ids[:taken]:
        assert looking.push(token) == plain.push(token)
    for count in looks:
        after = StreamDecoder(text(), stops)
        for token in ids[: taken + count]:
            after.push(token)
        assert looking.stops_in(ids[taken : taken + count]) == after.stopped
    rest = [[decoder.push(token) for token in ids[taken:]] for decoder in (looking, plain)]
    assert rest[0] == rest[1]
    assert (looking.flush(), looking.stopped) == (plain.flush(), plain.stopped)
