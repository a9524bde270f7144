"""A session that goes on at another replica gives the text it would have given: whichever replica
dies at which request, as long as one serves, and whatever reaches two of them.

The real cloud and the real edge around the toy model, as in `test_protocol_exactness`; each replica
has contexts of its own and shares nothing with the others.
"""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings

from services.edge.chain import Chain
from services.edge.policy import Mode
from tests.contract.test_protocol_exactness import MODES, cases, check_tokens, hunting
from tests.support.apps import PATIENCE
from tests.support.crashes import Crash, crash_scripts
from tests.support.toy_cloud import toy_cloud
from tests.support.toy_service import Case, Outcome, run_case

many = settings(max_examples=5 * settings().max_examples)
crashes = crash_scripts()


def answer(case: Case) -> Outcome:
    """The case with two replicas and no faults but crashes."""

    async def served() -> Outcome:
        async with asyncio.timeout(PATIENCE), toy_cloud() as one, toy_cloud() as other:
            return await run_case(case, one, other)

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(served())
    finally:
        loop.close()


def check_crashes(case: Case, script: list[Crash | None]) -> None:
    """No crash is seen in the text, nor by whoever reads it."""
    struck = replace(case, faults=(), crashes=script, on_cloud_loss="error")
    outcome = answer(struck)
    assert outcome.error is None
    check_tokens(struck, outcome)
    assert "fallback" not in {token.source for token in outcome.tokens}


@many
@given(case=cases(), script=crashes)
def test_no_crash_of_a_replica_changes_a_token(case: Case, script: list[Crash | None]) -> None:
    check_crashes(case, script)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_moves(mode: Mode) -> None:
    """Each request's replica dies once, before or after it has decided."""
    case = Case(
        mode=mode,
        prompt=[1, 2, 3],
        new_tokens=8,
        thresholds={1: 0.9, 2: 0.9},
        errors={1: 50, 2: 50},
        on_cloud_loss="error",
    )
    calm = answer(case)
    assert calm.error is None
    moved = 0
    for k in range(12):
        for crash in Crash:
            struck = answer(replace(case, crashes=[*[None] * k, crash]))
            assert struck.error is None, (k, crash)
            assert [t.id for t in struck.tokens] == [t.id for t in calm.tokens], (k, crash)
            assert struck.uplink is not None
            moved += struck.uplink.chain.revision > 0
    assert moved >= 2


def _unsend_nothing(self: Chain, start: int) -> None:
    """What the new replica says it lacks is not sent."""
    del self, start


def test_what_a_new_replica_lacks_has_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    @hunting
    @given(case=cases(modes=("split", "cloud")), script=crashes)
    def hunted(case: Case, script: list[Crash | None]) -> None:
        check_crashes(case, script)

    monkeypatch.setattr(Chain, "unsend", _unsend_nothing)
    with pytest.raises(AssertionError):
        hunted()
