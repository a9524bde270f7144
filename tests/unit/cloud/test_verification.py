"""A pass over drafts decides what deciding one token after the other would have, and leaves the KV
of that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloud import verification
from services.cloud.contexts import VerifiedContext
from services.cloud.engine import CloudEngine
from services.cloud.passes import draw_of
from services.cloud.verification import Verdict, Verification
from shared.decoding.sampling import Choice, PrefixState, sample
from shared.model import LayerSpan, SpanModel
from shared.protocol.messages import Opening, Sampling
from tests.support.toy_model import (
    DEPTH,
    SPLIT,
    VOCABULARY,
    WIDTH,
    ToyCache,
    ToyModel,
    full_logits,
    states_of,
)
from tests.unit.cloud.sessions import OPENING, SESSION, block, coded

PROMPT = (1, 5, 3)
VERIFIED = replace(OPENING, mode="verified", max_positions=12)
HOT = Sampling(temperature=3.0, repetition_penalty=1.5, min_new_tokens=2, seed=5, eos_ids=(0, 4))


def right_text(opening: Opening) -> Iterator[list[int]]:
    """The prompt and what the full model makes of it, one token more each time, to its end."""
    draw, tokens, state = draw_of(opening.sampling), list(PROMPT), PrefixState.start(PROMPT)
    yield tokens
    while len(tokens) < opening.max_positions:
        logits, position = full_logits(tokens), len(tokens)
        found = sample(
            logits, state, draw.parameters, seed=draw.seed, index=0, position=position
        ).token
        tokens, state = [*tokens, found], state.advance(found)
        yield tokens
        if found in opening.sampling.eos_ids:
            return


def final_text(opening: Opening) -> list[int]:
    return list(right_text(opening))[-1]


class Session:
    """A context beside an engine of the whole toy model, and the blocks an edge would send."""

    def __init__(self, opening: Opening, *, prompt_as_ids: bool = False) -> None:
        self.engine = CloudEngine(cast(SpanModel, ToyModel(LayerSpan(0, DEPTH, DEPTH))))
        self.context = VerifiedContext(SESSION, opening, hidden=WIDTH)
        self.opening = opening
        self.sequence = 0
        self.send(PROMPT, 0, states=not prompt_as_ids)

    def send(self, line: Sequence[int], start: int, *, states: bool = True) -> None:
        """Nodes [start, end) of `line`: the prompt's are final, later ones drafts."""
        self.sequence += 1
        carried = states and self.opening.split > 0 and start < len(line)
        self.context.apply(
            block(
                len(line),
                start,
                text=line,
                opening=self.opening,
                sequence=self.sequence,
                binding=len(PROMPT),
                acknowledged=len(PROMPT),
                states=coded(line, start, len(line)) if carried else None,
            )
        )

    def choices(self, planned: Verification, chunks: Sequence[int] = ()) -> list[Choice]:
        """Run a pass by these many rows at a time, and then by all that are left."""
        sizes = iter(chunks)
        while True:
            rows = min(next(sizes, 1000), planned.work.rows)
            [outcome] = self.engine.step([(planned.work, rows)])
            if outcome is not None:
                assert isinstance(outcome, tuple)
                return list(outcome)

    def verify(self, chunks: Sequence[int] = (), *, alone: bool = False) -> Verdict:
        """A whole pass."""
        how = verification.plan_alone if alone else verification.plan
        planned = how(self.context, self.engine)
        choices = self.choices(planned, chunks)
        verdict = verification.settle(self.context, planned, choices, tau=0.0)
        self.check()
        return verdict

    def check(self) -> None:
        """Hold the context's tokens, log and KV against the text by definition."""
        context = self.context
        assert context.tokens == final_text(self.opening)[: context.through]
        if context.states.end:
            assert context.states.slice(0, context.states.end) == coded(
                context.tokens, 0, context.states.end
            )
        cache = cast(ToyCache, context.cache)
        for layer, part in ((0, 0), (SPLIT, 1)):
            held = cache.length(layer)
            assert held <= context.through
            by_definition = [both[part] for both in states_of(context.tokens[:held])]
            assert cache.rows.get(layer, []) == by_definition
        assert cache.length(self.opening.split) >= min(context.held, context.through - 1)
        for node, _ in context.connected():
            assert node.position >= context.through


openings = st.builds(
    replace,
    st.just(VERIFIED),
    split=st.sampled_from([SPLIT, 0]),
    max_positions=st.integers(5, 14),
    sampling=st.one_of(
        st.just(Sampling()),
        st.builds(replace, st.just(HOT), seed=st.integers(0, 2**32)),
    ),
)
chunks = st.lists(st.integers(1, 4), max_size=8)


@given(opening=openings, data=st.data())
def test_passes_over_any_drafts_make_the_text(opening: Opening, data: st.DataObject) -> None:
    text, session = final_text(opening), Session(opening)
    context = session.context
    for _ in range(20):
        if context.ended:
            break
        known = context.through
        lines = [context.tokens]
        for _ in range(data.draw(st.integers(0, 4))):
            right = data.draw(st.integers(known, len(text)))
            other = data.draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=3))
            line = [*text[:right], *other][: opening.max_positions]
            session.send(line, known)
            lines.append(line)
        if not verification.can_verify(context):  # the last token's state is missing
            session.send(text[:known], context.held)
        best = max(n for line in lines for n in range(known, len(line) + 1) if line[:n] == text[:n])
        verdict = session.verify(data.draw(chunks))
        assert context.through == min(len(text), best + 1)
        assert verdict == Verdict(context.through - known, best - known)
    assert context.tokens == text
    assert context.ended


@given(opening=openings, ahead=st.integers(1, 6), data=st.data())
def test_a_cloud_that_goes_on_by_itself_makes_the_same_states(
    opening: Opening, ahead: int, data: st.DataObject
) -> None:
    opening = replace(opening, split=SPLIT)
    text, session = final_text(opening), Session(opening, prompt_as_ids=True)
    context = session.context
    for _ in range(ahead):
        if not context.ended:
            session.verify(data.draw(chunks), alone=True)
            assert context.held == context.through - 1  # the last token was not run
    assert context.through == min(len(text), len(PROMPT) + ahead)
    if not context.ended:  # the edge catches up, and drafts
        session.send(text, context.held)
        session.verify(data.draw(chunks))
        assert context.tokens == text


def test_after_states_the_layers_below_catch_up_before_the_cloud_goes_on() -> None:
    session, text = Session(VERIFIED), final_text(VERIFIED)
    session.send(text[:6], len(PROMPT))
    session.verify()
    assert session.context.through == 7
    before = cast(ToyCache, session.context.cache).length(0)
    session.verify(alone=True)
    assert (before, session.context.through) == (0, 8)
    assert cast(ToyCache, session.context.cache).length(0) == 7


def test_an_end_within_the_drafts_ends_the_text() -> None:
    greedy = replace(VERIFIED, max_positions=20)
    text = final_text(greedy)
    ending = replace(greedy, sampling=Sampling(eos_ids=(text[5],)))
    session = Session(ending)
    session.send(text[:12], len(PROMPT))
    verdict = session.verify()
    stop = len(final_text(ending))
    assert stop < 12
    assert session.context.tokens == text[:stop]
    assert session.context.ended
    assert not verification.can_verify(session.context)
    assert verdict == Verdict(stop - len(PROMPT), stop - len(PROMPT))


def test_what_a_failed_pass_has_written_is_undone() -> None:
    session, text = Session(VERIFIED), final_text(VERIFIED)
    session.send(text[:6], len(PROMPT))
    planned = verification.plan(session.context, session.engine)
    session.engine.step([(planned.work, 5)])  # two of three drafts
    verification.undo(planned)
    session.check()
    session.send([*PROMPT, 0, 0], len(PROMPT))
    session.verify()
    assert session.context.tokens == text[:7]
    planned = verification.plan_alone(session.context, session.engine)
    session.choices(planned)
    verification.undo(planned)  # its rows were run, its choice was not taken
    session.verify(alone=True)
    assert session.context.tokens == text[:8]


def test_a_cloud_without_its_kv_makes_it_again() -> None:
    session, text = Session(VERIFIED), final_text(VERIFIED)
    session.send(text[:6], len(PROMPT))
    session.verify()
    session.context.cache = None
    session.send(text[:9], 6)
    session.verify([2, 2, 2])
    assert session.context.tokens == text[:10]


@pytest.mark.parametrize(("tau", "ties"), [(0.0, 0), (100.0, 4)])
def test_choices_closer_than_tau_are_counted(tau: float, ties: int) -> None:
    session, text = Session(VERIFIED), final_text(VERIFIED)
    session.send(text[:6], len(PROMPT))
    session.send([*PROMPT, (text[3] + 1) % VOCABULARY], len(PROMPT))  # looked at, not decided
    planned = verification.plan(session.context, session.engine)
    verification.settle(session.context, planned, session.choices(planned), tau)
    assert session.context.near_ties == ties


def test_the_bytes_a_pass_will_add_are_told() -> None:
    session, text = Session(VERIFIED), final_text(VERIFIED)
    session.send(text[:6], len(PROMPT))
    needed = verification.bytes_needed(session.context, session.engine, alone=False)
    planned = verification.plan(session.context, session.engine)
    session.choices(planned)
    assert planned.work.cache.nbytes == needed
