"""Exit policies with a memory: every text is the one its definition says, also where kept tokens
are replaced and where the network fails.
"""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.decoding.certainty import signals_of
from shared.exits.policies import build
from shared.exits.policy import Asked, asked_until_kept
from tests.contract.test_protocol_exactness import REPAIRED, answer, cases, choice_of
from tests.support.faults import Fault
from tests.support.size import Size
from tests.support.toy_model import EDGE_DEPTH, SPLIT, exit_logits, full_logits, states_of
from tests.support.toy_service import Case

EXITS = (SPLIT, EDGE_DEPTH)
Made = list[tuple[int, str]]

policies = st.one_of(
    st.builds(
        lambda low, high, newest, unsure, stay: build(
            "moving_average",
            {
                "thresholds": {SPLIT: low, EDGE_DEPTH: high},
                "newest": newest,
                "unsure": unsure,
                "stay": stay,
            },
        ),
        st.sampled_from([0.2, 0.5, 0.9]),
        st.sampled_from([0.2, 0.5]),
        st.sampled_from([0.2, 0.5, 1.0]),
        st.integers(1, 3),
        st.integers(0, 4),
    ),
    st.builds(lambda exits: build("patience", {"exits": exits}), st.integers(1, 2)),
)
remembering = st.builds(
    replace,
    cases(modes=("collaborative",)),
    new_tokens=st.integers(6, 16),
    most_held=st.sampled_from([0, 2, 5, 8]),
    errors=st.just(dict.fromkeys(EXITS, 50)),
    faults=st.just(()),
    policy=policies,
)


def said(case: Case, tokens: list[int]) -> list[Asked]:
    """What each exit says after these tokens."""
    found = []
    for layer in EXITS:
        logits = exit_logits(layer, *states_of(tokens)[-1], case.errors[layer])
        token = choice_of(case, tokens, logits)
        found.append(Asked(layer, token, signals_of(logits[None])[0]))
    return found


def expected(case: Case) -> Made:
    """The tokens and their sources. The history at a position is that of the text before it, and
    of nothing that was taken back.
    """
    policy, start = case.policy, len(case.prompt)
    assert policy is not None
    tokens, sources, emitted = list(case.prompt), list[str](), start
    histories: list[Any] = [policy.start()]
    while len(tokens) - start < case.new_tokens:
        layer, asked = asked_until_kept(policy, said(case, tokens), histories[-1])
        histories.append(policy.after(histories[-1], asked))
        if layer is not None:
            tokens.append(asked[-1].token)
            sources.append(f"exit:{layer}")
            emitted = max(emitted, len(tokens) - case.most_held)
        else:
            for where in range(emitted, len(tokens) + 1):
                token = choice_of(case, tokens[:where], full_logits(tokens[:where]))
                if where == len(tokens) or token != tokens[where]:
                    break
            tokens[where:], sources[where - start :] = [token], ["cloud"]
            del histories[where - start + 2 :]
            emitted = len(tokens)
        if tokens[-1] in case.sampling.eos_ids:
            break
    return list(zip(tokens[start:], sources, strict=True))


def made(case: Case) -> Made:
    outcome = answer(case)
    assert outcome.error is None
    return [(token.id, token.source) for token in outcome.tokens]


def test_a_text_is_what_its_policy_says(size: Size) -> None:
    seen = {"repaired": 0, "kept": 0, "cloud": 0}

    @settings(max_examples=size.pick(short=40, long=3000))
    @given(case=remembering)
    def held(case: Case) -> None:
        texts = made(case)
        assert texts == expected(case)
        for _, source in texts:
            seen["cloud" if source == "cloud" else "kept"] += 1
        seen["repaired"] += texts != expected(replace(case, most_held=0))

    held()
    assert min(seen.values()) > 0, seen


def test_what_the_network_loses_does_not_change_it(size: Size) -> None:
    @settings(max_examples=size.pick(short=10, long=1000))
    @given(case=remembering, lost=st.integers(0, 8), fault=st.sampled_from(REPAIRED))
    def held(case: Case, lost: int, fault: Fault) -> None:
        struck = replace(case, faults=[*[Fault.NONE] * lost, fault])
        assert made(struck) == expected(case)

    held()
