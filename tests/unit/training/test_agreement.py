"""What is written beside a checkpoint is certified on documents that had no part in choosing it."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from shared.exits.calibration import file_of, read_agreement
from shared.exits.traces import ExitTrace, Trace
from shared.model.exits import exits_sha256
from training.calibration.agreement import (
    TARGETS,
    candidates_of,
    certified_thresholds,
    chances_of,
    fit_exits,
    make_agreement,
    outcome,
)
from training.calibration.logistic import Fit
from training.calibration.trace_arrays import as_arrays, shares_of

_PLACES = 30


def traces(
    count: int, *, seed: int = 0, harder: float = 0.0, spoke: str | None = None
) -> list[Trace]:
    """Documents whose exits 3 and 6 are right as often as a planted logistic function says, each
    document with a difficulty of its own.
    """
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ease = random.normal(2.5 - harder, 1.0)
        exits = {}
        for layer, better in ((3, 0.0), (6, 1.0)):
            top = 1 / (1 + np.exp(-random.normal(ease + better, 2.0, _PLACES)))
            chance = _planted().chance(np.stack([top, 1 - top, top, 1 - top], axis=1))
            right = random.random(_PLACES) < chance
            shares, rests = tuple(top.tolist()), tuple((1 - top).tolist())
            token = tuple(np.where(right, 7, 8).tolist())
            exits[layer] = ExitTrace(
                token=token, top=shares, entropy=rests, margin=shares, sharp=rests
            )
        made.append(
            Trace(
                model_fingerprint="ab",
                document=f"d-{number}",
                source="d",
                kind="greedy",
                whole=(7,) * _PLACES,
                exits=exits,
                exits_sha256=spoke,
            )
        )
    return made


def _planted() -> Fit:
    return Fit(np.array([3.0, -3.0, 1.0, -1.0]), 1.0)


def test_the_file_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "drafter-3-6.safetensors").write_bytes(b"weights")
    weights = sha256(sha256(b"weights").digest()).hexdigest()
    made = make_agreement(tmp_path, traces(200, spoke=weights), cut=(3, 6))
    assert read_agreement(tmp_path / file_of((3, 6))) == made
    assert made.model_fingerprint == "ab"
    assert made.layers == [3, 6]
    assert [target.max_disagreement for target in made.targets] == list(TARGETS)
    offloaded = [target.offloaded for target in made.targets]
    assert offloaded == sorted(offloaded, reverse=True)
    assert offloaded[-1] < 0.7
    for fit in made.exits.values():
        assert fit.ece_after < 0.05 < fit.ece_before
    assert made.exits_sha256 == weights
    other = make_agreement(tmp_path, traces(200))
    assert other.exits_sha256 is None
    assert replace(other, exits_sha256=made.exits_sha256) == made


def test_traces_of_other_exits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "exits.safetensors").write_bytes(b"that its drafter reads through")
    (tmp_path / "drafter-3-6.safetensors").write_bytes(b"weights")
    alone, together = exits_sha256(tmp_path), exits_sha256(tmp_path, (3, 6))
    assert len({alone, together, None}) == 3
    assert make_agreement(tmp_path, traces(20, spoke=alone)).exits_sha256 == alone
    for spoke, cut in ((None, None), (together, None), (alone, (3, 6))):
        with pytest.raises(ValueError, match="of other exits"):
            make_agreement(tmp_path, traces(20, spoke=spoke), cut=cut)


def test_targets_hold_on_documents_nobody_saw(tmp_path: Path) -> None:
    fresh = as_arrays(traces(1000, seed=9))
    for seed in range(2):
        made = make_agreement(tmp_path, traces(300, seed=seed))
        stored = [fit.logistic for fit in made.exits.values()]
        chances = chances_of([Fit(np.array(each.weights), each.bias) for each in stored], fresh)
        for target in made.targets:
            found = outcome(tuple(target.thresholds.values()), chances, fresh)
            assert found.disagreement <= target.max_disagreement
            assert found.offloaded == pytest.approx(target.offloaded, abs=0.06)


def test_what_tests_is_not_what_chose() -> None:
    """Harder text at the test brings thresholds up, easier text at the choice does not help."""
    easy, hard = as_arrays(traces(200)), as_arrays(traces(400, seed=1, harder=2.0))
    fits = fit_exits(easy)
    candidates = candidates_of(chances_of(fits, easy), easy, 0.1)
    found = certified_thresholds(candidates, chances_of(fits, hard), hard, 0.1)
    as_drawn = certified_thresholds(candidates, chances_of(fits, easy), easy, 0.1)
    assert found.disagreement <= 0.1
    assert outcome(as_drawn.thresholds, chances_of(fits, hard), hard).disagreement > 0.1


def test_easy_documents_that_come_first_certify_nothing() -> None:
    """A bet is staked by what it has seen: in the order of their sources it would be won early."""
    easy, hard = traces(200, harder=-1.5), traces(200, seed=1, harder=3.0)
    fits = fit_exits(as_arrays([*easy, *hard]))

    def wrong(of: list[Trace]) -> float:
        return outcome(kept, chances_of(fits, as_arrays(of)), as_arrays(of)).disagreement

    kept = (0.3, 0.3)
    target = wrong([*easy, *hard]) / 1.5
    assert wrong(easy) < target / 2
    for both in ([*easy, *hard], [*hard, *easy]):
        texts = as_arrays(both)
        found = certified_thresholds([kept], chances_of(fits, texts), texts, target)
        assert found.thresholds == (1.0, 1.0)


def test_too_little_text_certifies_nothing(tmp_path: Path) -> None:
    made = make_agreement(tmp_path, traces(20), targets=[0.01])
    assert made.targets[0].thresholds == {3: 1.0, 6: 1.0}
    assert made.targets[0].offloaded == 1
    with pytest.raises(ValueError, match="too few"):
        make_agreement(tmp_path, traces(3))


def test_traces_of_two_kinds_or_with_gaps_are_refused() -> None:
    (one,) = traces(1)
    changed = {name: getattr(one, name) for name in Trace.__slots__}
    with pytest.raises(ValueError, match="2 kinds"):
        as_arrays([one, Trace(**changed | {"model_fingerprint": "cd"})])
    with pytest.raises(ValueError, match="d-0 has places"):
        as_arrays([Trace(**changed | {"whole": (None, *one.whole[1:])})])
    with pytest.raises(ValueError, match="0 kinds"):
        as_arrays([])


def test_lines_of_one_document_are_one_text() -> None:
    made = traces(4)
    made[2] = replace(made[2], document=made[0].document)
    made[3] = replace(made[3], document=made[0].document, source="another")
    texts = as_arrays(made)
    assert texts.lengths.tolist() == [2 * _PLACES, _PLACES, _PLACES]
    assert texts.sources == ("d", "d", "another")
    tops = [place for n in (0, 2, 1, 3) for place in made[n].exits[3].top]
    assert texts.signals[0, :, 0].tolist() == tops


def test_parts_are_whole_documents_and_each_is_in_one() -> None:
    made = traces(11)
    texts = as_arrays(made)
    first, second = texts.split(0.3, seed=4)
    assert (len(first.lengths), len(second.lengths)) == (3, 8)
    assert len(first.whole) == first.lengths.sum() == 3 * _PLACES
    tops = sorted([*first.signals[0, :, 0].tolist(), *second.signals[0, :, 0].tolist()])
    assert tops == sorted(texts.signals[0, :, 0].tolist())
    chosen = texts.part([7])
    assert chosen.signals[1, :, 0].tolist() == list(made[7].exits[6].top)
    right = sum(token == 7 for token in made[7].exits[3].token)
    assert chosen.shares(chosen.agrees[0]).tolist() == [right / _PLACES]


def test_shares_are_each_documents_own_however_long_it_is() -> None:
    marked = np.array([True, True, False, False, False, True])
    assert shares_of(marked, np.array([1, 3, 2])).tolist() == [1, 1 / 3, 1 / 2]
