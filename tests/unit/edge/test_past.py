"""What exits said, folded by position, and as if never said where the text goes back."""

from hypothesis import given
from hypothesis import strategies as st

from services.edge.past import Past
from shared.exits.policies import build
from tests.unit.exits.sayings import LAYERS, asked, texts

AVERAGING = build("moving_average", {"thresholds": dict.fromkeys(LAYERS, 0.5)})


@given(text=texts, then=texts, back=st.integers(0, 8))
def test_after_going_back_the_history_is_that_of_the_text(
    text: list[list[object]], then: list[list[object]], back: int
) -> None:
    """What was said at the position gone back to holds; what was said behind it does not."""
    first, end = 5, 5 + min(back, max(0, len(text) - 1))
    went, never = Past(AVERAGING), Past(AVERAGING)
    for place, said in enumerate(text):
        went.heard(first + place, said)  # type: ignore[arg-type]
        if first + place <= end:
            never.heard(first + place, said)  # type: ignore[arg-type]
    went.go_back(end)
    for place, said in enumerate(then):
        for past in (went, never):
            past.heard(end + 1 + place, said)  # type: ignore[arg-type]
        assert went.before(end + 2 + place) == never.before(end + 2 + place)
    assert went.before(1000) == never.before(1000)


def test_what_is_said_at_a_position_is_not_yet_its_past() -> None:
    past = Past(AVERAGING)
    assert past.before(7) == AVERAGING.start()
    past.heard(7, [asked(top=0.2)])
    assert past.before(7) == AVERAGING.start()
    assert past.before(8) == AVERAGING.after(AVERAGING.start(), [asked(top=0.2)])
    past.go_back(6)
    assert past.before(8) == AVERAGING.start()


def test_a_policy_without_a_history_keeps_none() -> None:
    past = Past(build("single", {"threshold": 0.5}))
    for position in range(100):
        past.heard(position, [asked(top=0.9)])
    assert past.before(100) is None
    assert not past._folded
