"""Protocol exactness of mode `verified` alone, at the size at which it is claimed: trees, run-ahead
and replays under faults, and that the property sees what is broken on purpose.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cloud import verification
from services.cloud.contexts import Standing, VerifiedContext
from services.cloud.engine import Pick
from services.cloud.verification import Verdict, Verification
from services.edge.draft_tree import Step
from services.edge.drafts import Drafts
from services.edge.policy import Pacing
from shared.decoding.sampling import Choice
from shared.errors import TandemError
from shared.protocol.messages import Block, HiddenBlock, Sampling
from shared.quantization import CodedRows
from tests.contract.test_protocol_exactness import (
    EXITS,
    answer,
    cases,
    check_repair,
    check_sources,
    check_tokens,
    hunting,
)
from tests.support.faults import Fault
from tests.support.results import Figure
from tests.support.size import Size
from tests.support.toy_model import ToyCache
from tests.support.toy_service import Case

VERIFIED = {"case": cases(modes=("verified",))}
REPAIR = VERIFIED | {"lost": st.integers(0, 20)}
# Wide trees of drafts that are right, where noise decides: what stands where is seen by the noise.
HOT = {
    "case": st.builds(
        replace,
        cases(modes=("verified",)),
        errors=st.just(dict.fromkeys(EXITS, 0)),
        sampling=st.builds(Sampling, temperature=st.just(3.0), seed=st.integers(0, 2**64 - 1)),
        pacing=st.just(Pacing(width=5, floor=0.0, doubt=0.0)),
    )
}
# Runs of right drafts looked at at once, each of which changes what may follow.
PENALISED = {
    "case": st.builds(
        replace,
        cases(modes=("verified",)),
        errors=st.just(dict.fromkeys(EXITS, 0)),
        faults=st.just([]),
        new_tokens=st.just(16),
        sampling=st.builds(
            Sampling,
            temperature=st.just(3.0),
            repetition_penalty=st.just(3.0),
            seed=st.integers(0, 2**64 - 1),
        ),
        pacing=st.just(Pacing(width=1, floor=0.0, doubt=0.0, longest=6)),
    )
}
# Drafts that are wrong as often as right, on their way while the cloud decides otherwise.
WAVERING = {
    "case": st.builds(
        replace,
        cases(modes=("verified",)),
        errors=st.just(dict.fromkeys(EXITS, 50)),
        faults=st.lists(st.sampled_from([Fault.NONE, Fault.LATE, Fault.LOSE_ANSWER]), max_size=24),
        by_ids=st.just(False),
        new_tokens=st.just(16),
        sampling=st.just(Sampling()),
        pacing=st.just(Pacing(width=3, floor=0.0, doubt=0.9, longest=2, most=24)),
    )
}


def test_a_verified_text_is_the_full_models_under_faults(
    size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=size.pick(short=150, long=20_000))
    @given(**VERIFIED)
    def check(case: Case) -> None:
        outcome = answer(case)
        check_tokens(case, outcome)
        assert outcome.generation is not None
        assert outcome.generation.verified is not None
        drafts = outcome.generation.verified.drafts
        seen["texts"] += 1
        seen["drafts"] += drafts.drafted
        seen["accepted"] += drafts.accepted
        seen.update(token.source for token in outcome.tokens)

    check()
    for name, count in sorted(seen.items()):
        record_figure(name, count)
    assert 0 < seen["accepted"] < seen["drafts"]
    assert min(seen["cloud"], seen["draft"], seen["fallback"]) > 0


def _walk_past_a_mismatch(
    context: VerifiedContext, done: Verification, choices: Sequence[Choice], tau: float
) -> Verdict:
    """As `settle`, but the first draft is right whatever the full model says."""
    del tau
    for block in done.coded:
        context.states.append(block)
    before, path = context.through, [-1]
    right = {
        (parent, node.token): place
        for place, (node, parent) in reversed(
            list(enumerate(zip(done.nodes, done.parents, strict=True)))
        )
    }
    while choices and not context.ended:
        token = choices[path[-1] + 1].token
        followed = [node for parent, node in right if parent == path[-1]]
        context.append(token if token in followed or not followed else followed[0])
        place = right.get((path[-1], context.tokens[-1]))
        if place is None:
            break
        path.append(place)
    if done.nodes:
        done.work.cache.keep(done.base, [done.base + place for place in path[1:]])
    context.prune()
    return Verdict(context.through - before, len(path) - 1)


def _keep_the_first_rows(self: ToyCache, base: int, slots: Sequence[int]) -> None:
    for kept in self.rows.values():
        del kept[base + len(slots) :]


def _forget_the_fork(self: VerifiedContext, block: Block) -> Standing:
    """As `apply`, for nodes that are told by position: the parent's digest is not looked at."""
    if block.start <= self.through:
        object.__setattr__(block, "parent", self.digests[block.start])
    return _apply(self, block)


def _picks_without_folds(
    context: VerifiedContext, line: int, nodes: Sequence[Any], parents: Sequence[int]
) -> list[Pick]:
    picks = _picks(context, line, nodes, parents)
    return [Pick(pick.row, pick.position, picks[0].state) for pick in picks]


def _picks_by_row(
    context: VerifiedContext, line: int, nodes: Sequence[Any], parents: Sequence[int]
) -> list[Pick]:
    """A node's position is its depth in the tree, not its place."""
    picks = _picks(context, line, nodes, parents)
    return [Pick(p.row, picks[0].position + n, p.state) for n, p in enumerate(picks)]


def _give_each_node_the_last_state(self: Drafts, step: Step, states: HiddenBlock | None) -> None:
    _coded(self, step, states)
    if states is not None:
        for node in step.nodes:
            node.coded = (states, len(step.nodes) - 1) if not node.decided else node.coded


def _keep_siblings(self: Drafts, child: Any) -> None:
    siblings = dict(self.root.children)
    _move(self, child)
    for token, node in siblings.items():
        if node is not child:
            node.parent = child
            child.children.setdefault(token, node)


def _append_the_first_row(self: CodedRows, block: HiddenBlock, row: int) -> None:
    del row
    _append_row(self, block, 0)


def _unsend_nothing(self: Drafts, start: int) -> None:
    del self, start


_apply, _picks, _append_row = VerifiedContext.apply, verification._picks, CodedRows.append_row
_coded, _move = Drafts.coded, Drafts._move


Planted = tuple[Any, str, Callable[..., Any], Callable[..., None], dict[str, Any]]
FAULTS: dict[str, Planted] = {
    "a mismatch is walked past": (
        verification,
        "settle",
        _walk_past_a_mismatch,
        check_sources,
        VERIFIED,
    ),
    "KV keeps other rows": (ToyCache, "keep", _keep_the_first_rows, check_sources, VERIFIED),
    "no fencing": (VerifiedContext, "apply", _forget_the_fork, check_sources, WAVERING),
    "nodes without folds": (verification, "_picks", _picks_without_folds, check_sources, PENALISED),
    "positions by row": (verification, "_picks", _picks_by_row, check_sources, HOT),
    "states of other nodes": (
        Drafts,
        "coded",
        _give_each_node_the_last_state,
        check_sources,
        VERIFIED,
    ),
    "siblings are kept": (Drafts, "_move", _keep_siblings, check_sources, VERIFIED),
    "a log of first rows": (
        CodedRows,
        "append_row",
        _append_the_first_row,
        check_sources,
        VERIFIED,
    ),
    "no sending again": (Drafts, "unsend", _unsend_nothing, check_repair, REPAIR),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same property must fail on broken code, or it says nothing."""
    owner, name, planted, broken_property, arguments = FAULTS[fault]
    monkeypatch.setattr(owner, name, planted)
    with pytest.raises((AssertionError, ExceptionGroup, TandemError, IndexError)):
        hunting(given(**arguments)(broken_property))()
