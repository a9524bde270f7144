"""The hand-overs' rules, tried to the end: whatever is lost, doubled, late, restarted or gone, an
edge takes no token back, the stored log is nobody's but the newest revision's, and the text can be
finished. `tests.support.handover_model` has the rules.
"""

from collections.abc import Callable

import pytest

from tests.support.handover_search import explore
from tests.support.handover_state import Faults, Rules
from tests.support.size import Size

SHORT = (
    Faults(sends=3),
    Faults(sends=2, ahead=1),
    Faults(sends=2, crashes=1),
    Faults(sends=2, aways=1),
)
LONG = (
    Faults(sends=4, moves=2),
    Faults(sends=3, ahead=1),
    Faults(sends=3, crashes=1),
    Faults(sends=3, losses=1),
    Faults(sends=3, aways=1),
    Faults(sends=2, aways=1, ahead=1),
    Faults(sends=2, moves=2, aways=1, losses=1),
    Faults(sends=2, crashes=1, losses=1),
)
RESTARTS = Faults(sends=2, restarts=1)
PLANTED = (
    (Rules(store_fences_writes=False), Faults(sends=3)),
    (Rules(store_compares=False), Faults(sends=3)),
    (Rules(store_fences_claims=False), Faults(sends=3)),
    (Rules(claims_load=False), Faults(sends=3)),
    (Rules(saved_before_told=False), Faults(sends=3)),
    (Rules(edge_compares_revisions=False), Faults(sends=2)),
    (Rules(edge_compares_digests=False), Faults(sends=2, moves=0, aways=1, ahead=1)),
)
# While there is a record, that fences too: it takes a store that has lost everything.
DEEP = (
    (
        Rules(replica_fences=False),
        Faults(sends=3, moves=0, crashes=1, restarts=1, losses=1),
    ),
)


@pytest.mark.timeout(900)
def test_no_order_of_messages_and_faults_breaks_the_rules(
    size: Size, record_figure: Callable[[str, object], None]
) -> None:
    visited = 0
    for faults in size.pick(short=SHORT, long=LONG):
        states, way = explore(Rules(), faults)
        assert not way, "\n".join(map(str, (faults, *way)))
        visited += states
    record_figure("states of the hand-overs visited", visited)


@pytest.mark.timeout(900)
def test_without_any_of_the_fences_the_search_finds_the_way_to_a_broken_text(size: Size) -> None:
    for rules, faults in size.pick(short=PLANTED, long=(*PLANTED, *DEEP)):
        _, way = explore(rules, faults)
        assert way, rules


def test_a_restarted_edge_is_not_fenced_by_a_late_block_of_its_own_past() -> None:
    """A life that began at revision 0, below what earlier ones have come to, could be: where a
    block of these arrived after it was first heard, it ended with `fenced`. It begins beyond them.
    """
    states, way = explore(Rules(), RESTARTS)
    assert not way
    assert states > 10_000
    _, way = explore(Rules(lives_begin_later=False), RESTARTS)
    assert "not finished" in way[-1]
    assert any("restarts" in step for step in way)


def test_a_restarted_edge_that_cannot_claim_beyond_its_past_does_not_finish() -> None:
    # As where two edges' clocks disagree.
    _, way = explore(Rules(first_word_claims=False, lives_begin_later=False), RESTARTS)
    assert way
