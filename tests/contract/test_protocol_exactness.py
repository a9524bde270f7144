"""Protocol exactness: whatever the network does to frames, every token is the one its source would
give on that prefix.

The real cloud (routes, completion, contexts), the real edge (generation, uplink, chain) and the
real wire around a model in integers whose states are digests, so equality is exact and a single
misplaced state is seen at the next token.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.cloud.contexts.context import Context, Standing
from services.edge.chain import Chain
from services.edge.policy import Mode, Pacing
from shared.decoding.sampling import PrefixState, sample
from shared.errors import CloudLost, TandemError
from shared.protocol.messages import Block, HiddenBlock, Sampling
from shared.quantization import CodedRows
from tests.support.apps import PATIENCE
from tests.support.faults import Fault
from tests.support.toy_cloud import toy_cloud
from tests.support.toy_model import (
    EDGE_DEPTH,
    SPLIT,
    VOCABULARY,
    exit_logits,
    full_logits,
    states_of,
)
from tests.support.toy_service import Case, Outcome, run_case

MODES: tuple[Mode, ...] = ("collaborative", "verified", "split", "cloud")
EXITS = (SPLIT, EDGE_DEPTH)
REPAIRED = (
    Fault.LOSE_REQUEST,
    Fault.LOSE_ANSWER,
    Fault.DOUBLE,
    Fault.DAMAGE_ANSWER,
    Fault.FORGET,
)

# A case takes about 20 ms, so this suite affords more of them than a profile's default.
many = settings(max_examples=10 * settings().max_examples)
# Where a failure is expected, the first will do: nobody reads the smallest one.
hunting = settings(many, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)

percent = st.integers(0, 100)
thresholds = st.sampled_from([0.0, 0.08, 0.3, 0.6, 0.9, 1.0])


samplings = st.one_of(
    st.just(Sampling()),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 3.0]),
        top_p=st.sampled_from([0.6, 1.0]),
        top_k=st.sampled_from([0, 3]),
        repetition_penalty=st.sampled_from([1.0, 3.0]),
        min_new_tokens=st.integers(0, 8),
        seed=st.integers(0, 2**64 - 1),
        eos_ids=st.sampled_from([(), (3,), (0, 5)]),
    ),
)


# From one draft at a time, verified at once, to trees that run far ahead.
pacings = st.builds(
    Pacing,
    width=st.sampled_from([1, 2, 5]),
    floor=st.sampled_from([0.0, 0.05, 0.4]),
    doubt=st.sampled_from([0.0, 0.5, 0.95]),
    longest=st.sampled_from([1, 3, 8]),
    most=st.sampled_from([1, 6, 40]),
    ahead=st.sampled_from([0, 0, 1, 4, 100]),
    racing=st.booleans(),
    least=st.sampled_from([0.0, 0.0, 0.3]),
    sure=st.sampled_from([0.0, 0.7, 0.9, 1.0, 1.0]),
)


@st.composite
def cases(draw: st.DrawFn, modes: tuple[Mode, ...] = MODES) -> Case:
    mode = draw(st.sampled_from(modes))
    held = st.sampled_from([0, 1, 3, 8]) if mode == "collaborative" else st.just(0)
    return Case(
        mode=mode,
        prompt=draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)),
        new_tokens=draw(st.integers(1, 16)),
        thresholds={layer: draw(thresholds) for layer in EXITS},
        errors={layer: draw(percent) for layer in EXITS},
        faults=draw(st.lists(st.sampled_from(list(Fault)), max_size=24)),
        on_cloud_loss=draw(st.sampled_from(["degrade", "error"])),
        sampling=draw(samplings),
        pacing=draw(pacings),
        by_ids=draw(st.booleans()),
        prompt_as_ids=draw(st.booleans()),
        most_held=draw(held),
    )


def answer(case: Case, *, budget_bytes: int = 1 << 20) -> Outcome:
    async def served() -> Outcome:
        # A case takes milliseconds: one that waits for what never comes has failed.
        async with asyncio.timeout(PATIENCE), toy_cloud(budget_bytes=budget_bytes) as cloud:
            return await run_case(case, cloud)

    loop = asyncio.new_event_loop()  # a third cheaper than asyncio.run with its signal handlers
    try:
        return loop.run_until_complete(served())
    finally:
        loop.close()


def check_tokens(case: Case, outcome: Outcome) -> None:
    """Hold every token against the definition of its source on the prefix it was made on."""
    tokens = list(case.prompt)
    for token in outcome.tokens:
        proposals = {layer: proposal_of(case, tokens, layer) for layer in EXITS}
        sure = [layer for layer in EXITS if proposals[layer][1] > case.thresholds[layer]]
        if token.source.startswith("exit:"):
            assert case.mode in ("collaborative", "standalone")
            layer = int(token.source.removeprefix("exit:"))
            assert layer == (sure[0] if sure else EDGE_DEPTH), (token, sure)
            assert token.id == proposals[layer][0]
        else:
            if case.mode == "collaborative" and sure:  # then the kept token was replaced
                assert case.most_held, f"{token} where exit {sure} was sure"
                assert (token.source, token.id) != ("cloud", proposals[sure[0]][0])
                assert token.source == "cloud"
            asked = [EDGE_DEPTH] if case.mode == "verified" else (sure or [EDGE_DEPTH])[:1]
            if case.mode == "verified" and case.pacing.sure < 1:
                asked.append(SPLIT)
            expected = {
                "cloud": [choice_of(case, tokens, full_logits(tokens))],
                "draft": [choice_of(case, tokens, full_logits(tokens))],
                "fallback": [proposals[layer][0] for layer in asked],
            }
            assert token.id in expected[token.source], (token, len(tokens))
        tokens.append(token.id)
    finished = len(outcome.tokens) in (case.new_tokens, case.hang_up_after) or (
        outcome.tokens[-1:] and outcome.tokens[-1].id in case.sampling.eos_ids
    )
    assert finished or isinstance(outcome.error, CloudLost), outcome.error
    assert outcome.error is None or case.on_cloud_loss == "error"
    assert outcome.generation is not None
    made, given = outcome.generation.sequence.generated, [token.id for token in outcome.tokens]
    assert given == made if case.hang_up_after is None else given == made[: len(given)]
    left = (outcome.sessions_left, outcome.bytes_left)
    assert left == (0, 0), f"sessions and bytes still held: {left}"


def choice_of(case: Case, tokens: list[int], logits: Tensor) -> int:
    """The sampler's choice after `tokens`, from its definition: a fold, a seed, a position."""
    state = PrefixState.start(case.prompt)
    for token in tokens[len(case.prompt) :]:
        state = state.advance(token)
    seed, position = case.sampling.seed, len(tokens)
    chosen = sample(logits, state, case.parameters, seed=seed, index=0, position=position)
    return chosen.token


def proposal_of(case: Case, tokens: list[int], layer: int) -> tuple[int, float]:
    logits = exit_logits(layer, *states_of(tokens)[-1], case.errors[layer])
    return choice_of(case, tokens, logits), float(logits.softmax(0).max())


def check_sources(case: Case) -> None:
    check_tokens(case, answer(case))


def check_repair(case: Case, lost: int) -> None:
    """Hold the text under each single fault against the calm run's."""
    calm = answer(replace(case, faults=()))
    for fault in REPAIRED:
        struck = answer(replace(case, faults=[*[Fault.NONE] * lost, fault]))
        assert [t.id for t in struck.tokens] == [t.id for t in calm.tokens], fault
        assert struck.error is None


def check_recovery(case: Case, lost: int) -> None:
    """A need whose answer is lost twice falls back on its own token; the cloud must follow it."""
    script = [*[Fault.NONE] * lost, Fault.LOSE_ANSWER, Fault.LOSE_ANSWER]
    outcome = answer(replace(case, faults=script, on_cloud_loss="degrade"))
    check_tokens(case, outcome)
    assert [token.source for token in outcome.tokens].count("fallback") <= 1


@many
@given(case=cases())
def test_every_token_is_its_sources_own_under_faults(case: Case) -> None:
    check_sources(case)


@given(case=cases(), after=st.integers(1, 8))
def test_a_caller_who_hangs_up_leaves_nothing_behind(case: Case, after: int) -> None:
    check_sources(replace(case, hang_up_after=after))


@given(case=cases(), budget=st.integers(900, 2000))
def test_a_cloud_short_of_memory_changes_no_token(case: Case, budget: int) -> None:
    """What does not fit is refused or evicted and rebuilt; never answered from less."""
    check_tokens(case, answer(case, budget_bytes=budget))


@given(case=cases(modes=("collaborative",)))
def test_without_faults_no_token_falls_back(case: Case) -> None:
    calm = replace(case, faults=())
    outcome = answer(calm)
    check_tokens(calm, outcome)
    assert {token.source for token in outcome.tokens} <= {"cloud", *(f"exit:{e}" for e in EXITS)}


@given(case=cases(), lost=st.integers(0, 20))
def test_one_lost_doubled_or_damaged_frame_changes_no_token(case: Case, lost: int) -> None:
    check_repair(case, lost)


@given(case=cases(modes=("collaborative", "split")), lost=st.integers(0, 20))
def test_after_an_outage_the_cloud_follows_the_edges_own_tokens(case: Case, lost: int) -> None:
    check_recovery(case, lost)


def _apply_without_fencing(self: Context, block: Block) -> Standing:
    self._extend(block)
    self.sequence = max(self.sequence, block.sequence)
    self.confirmed = max(self.confirmed, min(block.binding, self.through))
    return Standing.APPLIED


def _unsend_nothing(self: Chain, start: int) -> None:
    del self, start


def _truncate_nothing(self: Context, end: int) -> None:
    del self, end


def _append_rows_held_already(self: CodedRows, block: HiddenBlock, skip: int = 0) -> None:
    del skip
    self._payload += block.payload
    self._scales += block.scales
    self.end += block.shape[0]


LOST = st.integers(0, 20)
SPLIT_ONLY = {"case": cases(modes=("split",)), "lost": LOST}


@pytest.mark.parametrize(
    ("owner", "name", "planted", "broken_property", "arguments"),
    [
        pytest.param(
            Context, "apply", _apply_without_fencing, check_recovery, SPLIT_ONLY, id="no fencing"
        ),
        pytest.param(
            Context, "truncate", _truncate_nothing, check_recovery, SPLIT_ONLY, id="no rollback"
        ),
        pytest.param(
            Chain, "unsend", _unsend_nothing, check_repair, SPLIT_ONLY, id="no sending again"
        ),
        pytest.param(
            CodedRows,
            "append",
            _append_rows_held_already,
            check_sources,
            {"case": cases()},
            id="doubled states",
        ),
    ],
)
def test_a_planted_fault_is_caught(
    owner: type,
    name: str,
    planted: Callable[..., Any],
    broken_property: Callable[..., None],
    arguments: dict[str, st.SearchStrategy[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same property must fail on broken code, or it says nothing."""
    monkeypatch.setattr(owner, name, planted)
    with pytest.raises((AssertionError, ExceptionGroup, TandemError, IndexError)):
        hunting(given(**arguments)(broken_property))()
