"""Kept tokens that wait for the cloud's judgement (`repair`): what was judged before it is given
out is the full model's own choice, and what it replaces leaves no trace on either side.

`expected` says in a loop over the model's definition what the two services must make together.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.policy import OnCloudLoss
from shared.quantization import encode
from tests.contract.test_protocol_exactness import (
    EXITS,
    answer,
    cases,
    check_tokens,
    choice_of,
    proposal_of,
)
from tests.support.faults import Fault
from tests.support.results import Figure
from tests.support.size import Size
from tests.support.toy_model import EDGE_DEPTH, full_logits, states_of
from tests.support.toy_service import Case, Outcome

Made = list[tuple[int, str]]

# Exits that are often sure and often wrong, over texts long enough for several answers.
repairing = st.builds(
    replace,
    cases(modes=("collaborative",)),
    most_held=st.sampled_from([1, 2, 5, 8]),
    new_tokens=st.integers(4, 24),
    errors=st.just(dict.fromkeys(EXITS, 50)),
    thresholds=st.sampled_from(
        [dict(zip(EXITS, t, strict=True)) for t in ((0.9, 0.97), (0.97, 0.6))]
    ),
)
calm = st.builds(replace, repairing, faults=st.just(()))


def expected(case: Case) -> tuple[Made, int]:
    """The tokens with their sources that a request without faults gets, and how many of them were
    put in the place of another.
    """
    start, tokens, sources, repaired = len(case.prompt), list(case.prompt), [], 0
    emitted = start
    while len(tokens) - start < case.new_tokens:
        proposals = {layer: proposal_of(case, tokens, layer) for layer in EXITS}
        sure = [layer for layer in EXITS if proposals[layer][1] > case.thresholds[layer]]
        if sure:
            tokens.append(proposals[sure[0]][0])
            sources.append(f"exit:{sure[0]}")
            emitted = max(emitted, len(tokens) - case.most_held)
        else:
            judged = ((p, _full(case, tokens[:p])) for p in range(emitted, len(tokens) + 1))
            where, token = next((p, t) for p, t in judged if p == len(tokens) or t != tokens[p])
            repaired += where < len(tokens)
            tokens[where:], sources[where - start :] = [token], ["cloud"]
            emitted = len(tokens)
        if tokens[-1] in case.sampling.eos_ids:
            break
    return list(zip(tokens[start:], sources, strict=True)), repaired


def _full(case: Case, tokens: list[int]) -> int:
    return choice_of(case, tokens, full_logits(tokens))


def check_calm(case: Case) -> None:
    """Hold a text without faults against the definition."""
    check_text(case, answer(case))


def check_text(case: Case, outcome: Outcome) -> None:
    """Hold what came of a case without faults against the definition."""
    made, repaired = expected(case)
    assert outcome.error is None
    assert [(token.id, token.source) for token in outcome.tokens] == made
    assert outcome.generation is not None
    assert outcome.generation.repaired == repaired
    check_record(case, outcome)


def check_struck(case: Case) -> None:
    """Hold a text under faults against what every answer of the cloud promises."""
    outcome = answer(case)
    check_tokens(case, outcome)
    check_record(case, outcome)
    tokens = list(case.prompt)
    kept: list[int] = []
    for token in outcome.tokens:
        if token.source == "cloud" and not _sure(case, tokens):
            # It was asked for with these still held: the answer has judged them.
            for position in kept[-case.most_held :]:
                assert tokens[position] == _full(case, tokens[:position]), position
        kept = [*kept, len(tokens)] if token.source.startswith("exit:") else []
        tokens.append(token.id)


def _sure(case: Case, tokens: list[int]) -> bool:
    return any(proposal_of(case, tokens, layer)[1] > case.thresholds[layer] for layer in EXITS)


def check_record(case: Case, outcome: Outcome) -> None:
    """The edge's record of the session is that of the text given out, and of nothing else."""
    assert outcome.uplink is not None
    chain = outcome.uplink.chain
    tokens = [*case.prompt, *(token.id for token in outcome.tokens)][: chain.end]
    assert chain.tokens == tokens
    rows = torch.tensor([list(below) for below, _ in states_of(tokens)], dtype=torch.float32)
    assert chain.states.slice(0, chain.end) == encode(rows, case.codec)


def test_without_faults_a_text_is_what_its_definition_says(
    size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=size.pick(short=150, long=10_000))
    @given(case=calm)
    def check(case: Case) -> None:
        outcome = answer(case)
        check_text(case, outcome)
        assert outcome.generation is not None
        seen["repaired"] += outcome.generation.repaired
        seen.update(token.source for token in outcome.tokens)

    check()
    for name, count in sorted(seen.items()):
        record_figure(name, count)
    assert min(seen["repaired"], seen[f"exit:{EDGE_DEPTH}"]) > 50
    assert seen["cloud"] > seen["repaired"]


def test_under_faults_what_an_answer_judged_is_the_full_models(size: Size) -> None:
    @settings(max_examples=size.pick(short=150, long=10_000))
    @given(case=repairing)
    def check(case: Case) -> None:
        check_struck(case)

    check()


def test_holding_none_back_replaces_none() -> None:
    @given(case=calm)
    def check(case: Case) -> None:
        at_once = replace(case, most_held=0)
        outcome = answer(at_once)
        check_text(at_once, outcome)
        assert outcome.generation is not None
        assert outcome.generation.repaired == 0

    check()


def test_a_lost_cloud_lets_go_of_every_token_held() -> None:
    """Also where the request then fails: what was kept is given out first."""

    @given(case=repairing, on_loss=st.sampled_from(["degrade", "error"]))
    def check(case: Case, on_loss: OnCloudLoss) -> None:
        lost = replace(case, faults=[Fault.LOSE_REQUEST] * 500, on_cloud_loss=on_loss)
        without = answer(replace(lost, most_held=0))
        assert answer(lost).tokens == without.tokens

    check()
