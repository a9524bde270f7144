"""Where time alone counts the clock decides between racing the cloud and leaving it alone."""

from services.edge.paces import FORGOTTEN, LEAST_TOKENS, Pace, Paces, Pair


def play(paces: Paces, texts: int, race: float, cloud: float, step: float) -> list[Pair]:
    """The plans of so many texts, which take so many seconds a token."""
    plans = []
    for _ in range(texts):
        plans.append(paces.current)
        pace = {"race": race, "cloud": cloud}[paces.current]
        paces.took(paces.current, 40, 40 * pace, step=step)
    return plans


def test_a_race_that_is_faster_than_the_clouds_steps_is_never_left() -> None:
    assert play(Paces(), 100, 0.030, 0.039, 0.037) == ["race"] * 100


def test_a_race_that_holds_the_cloud_up_is_left_and_looked_at_now_and_then() -> None:
    plans = play(Paces(), 200, 0.0104, 0.0093, 0.009)
    assert plans[:3] == ["race", "cloud", "cloud"]
    assert plans.count("race") <= 1 + 200 // FORGOTTEN
    assert "race" in plans[3:]


def test_a_cloud_alone_that_keeps_not_what_its_steps_promise_is_left_again() -> None:
    plans = play(Paces(), 200, 0.0097, 0.0110, 0.009)
    assert plans[:3] == ["race", "cloud", "race"]
    assert plans.count("cloud") <= 1 + 200 // FORGOTTEN


def test_what_is_hardly_better_is_not_taken_up() -> None:
    assert play(Paces(), 20, 0.0100, 0.0090, 0.0098) == ["race"] * 20


def test_a_machine_that_has_become_another_is_followed() -> None:
    paces = Paces()
    before = play(paces, 20, 0.0104, 0.0093, 0.009)
    after = play(paces, 3 * FORGOTTEN, 0.007, 0.0093, 0.009)
    assert (before[-1], after[-1]) == ("cloud", "race")


def test_a_short_text_says_nothing() -> None:
    paces = Paces()
    paces.took("race", LEAST_TOKENS - 1, 10.0, step=0.009)
    before = paces.current
    paces.took("race", LEAST_TOKENS, 10.0, step=0.009)
    assert (before, paces.current) == ("race", "cloud")


def test_a_pace_counts_what_came_after_the_first_news() -> None:
    pace, found = Pace(), []
    for tokens, now in [(3, 10.0), (2, 10.5), (1, 11.0)]:
        pace.came(tokens, now)
        found.append((pace.tokens, pace.seconds))
    assert found == [(0, 0.0), (2, 0.5), (3, 1.0)]
