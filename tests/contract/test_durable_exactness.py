"""An edge moves between replicas that share a store of logs, and every token is still the one its
source would give: whatever is lost of frames, replicas' memory, or the store.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.test_protocol_exactness import cases, check_tokens
from tests.support.apps import PATIENCE
from tests.support.crashes import Crash, crash_scripts
from tests.support.fleet import EVENTS, Fleet, Moving, toy_fleet
from tests.support.toy_service import Case, Outcome, run_case

Route = list[tuple[int, str]]
Script = list[Crash | str | None]

many = settings(max_examples=4 * settings().max_examples)
moves = st.lists(st.tuples(st.integers(0, 1), st.just("nothing")), max_size=24)
crashes = crash_scripts()
events = st.lists(st.sampled_from([None, None, *Crash, *EVENTS]), max_size=24)


def run(served: Callable[[Fleet], Coroutine[Any, Any, Outcome]]) -> Outcome:
    async def with_fleet() -> Outcome:
        async with asyncio.timeout(PATIENCE), toy_fleet() as fleet:
            return await served(fleet)

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(with_fleet())
    finally:
        loop.close()


def at_one_revision(case: Case, route: Route) -> Outcome:
    """The n-th request goes to replica `route[n]`, and no replica is told of the other."""

    async def served(fleet: Fleet) -> Outcome:
        return await run_case(case, fleet, around=lambda inner: Moving(inner, fleet, route))

    return run(served)


def moving(case: Case, script: Script) -> Outcome:
    """The edge moves by itself: what befalls replicas and store at the n-th request is given."""

    async def served(fleet: Fleet) -> Outcome:
        given = replace(case, crashes=script)
        outcome = await run_case(given, *fleet.replicas, suffer=fleet.suffer)
        if not script:
            outcome.sessions_left += len(fleet.store)
            outcome.bytes_left += fleet.store.nbytes
        return outcome

    return run(served)


@many
@given(case=cases(), script=crashes)
def test_a_session_handed_over_again_and_again_is_the_session_that_stayed(
    case: Case, script: Script
) -> None:
    calm = replace(case, faults=(), on_cloud_loss="error")
    stayed, moved = moving(calm, []), moving(calm, script)
    check_tokens(calm, moved)
    assert [t.id for t in moved.tokens] == [t.id for t in stayed.tokens]
    assert moved.error is None


@many
@given(case=cases(), route=moves)
def test_two_replicas_at_one_revision_never_tell_two_texts(case: Case, route: Route) -> None:
    calm = replace(case, faults=())
    stayed, moved = at_one_revision(calm, []), at_one_revision(calm, route)
    check_tokens(calm, moved)
    if case.mode != "collaborative":
        assert [t.id for t in moved.tokens] == [t.id for t in stayed.tokens]


@many
@given(case=cases(), script=events)
def test_every_token_is_its_sources_own_whatever_is_lost(case: Case, script: Script) -> None:
    check_tokens(case, moving(case, script))
