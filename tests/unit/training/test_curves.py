"""What thresholds do to tokens counted by hand, and ROUGE-L of texts compared by hand."""

import numpy as np
import pytest

from training.evaluation.curves import THRESHOLDS, Curve, Point, curves, point
from training.evaluation.similarity import mean_rouge_l, rouge_l

# Four tokens, two exits: the first is sure of tokens 0 and 1 and wrong at 1, the second is sure of
# all but the last and wrong at 2.
CONFIDENCE = np.array([[0.9, 0.8, 0.3, 0.1], [0.95, 0.9, 0.7, 0.2]])
AGREES = np.array([[True, False, True, True], [True, True, False, True]])


def test_each_exit_alone_and_both_at_one_threshold() -> None:
    found = curves(CONFIDENCE, AGREES, (3, 6), (0.0, 0.5, 1.0))
    assert [curve.exits for curve in found] == [(3,), (6,), (3, 6)]
    first, second, both = (
        [(p.kept, p.disagreement, p.agreement) for p in curve.points] for curve in found
    )
    assert first == [(1.0, 0.25, 0.75), (0.5, 0.25, 0.5), (0.0, 0.0, None)]
    assert second == [(1.0, 0.25, 0.75), (0.75, pytest.approx(0.25), 2 / 3), (0.0, 0.0, None)]
    # Tokens 0 and 1 leave at the first exit, 2 at the second: two of three are wrong.
    assert both == [(1.0, 0.25, 0.75), (0.75, pytest.approx(0.5), 1 / 3), (0.0, 0.0, None)]


def test_a_model_with_one_exit_has_one_curve() -> None:
    found = curves(CONFIDENCE[:1], AGREES[:1], (3,))
    assert [curve.exits for curve in found] == [(3,)]
    assert [p.thresholds for p in found[0].points] == [(each,) for each in THRESHOLDS]
    assert isinstance(found[0], Curve)


def test_a_threshold_for_each_exit() -> None:
    found = point(CONFIDENCE, AGREES, (0.85, 0.5))
    # Token 1 now passes the first exit and is right at the second.
    wrong = found.disagreement
    assert found == Point(thresholds=(0.85, 0.5), kept=0.75, disagreement=wrong, agreement=2 / 3)
    assert wrong == pytest.approx(0.25)


def test_rouge_l_is_the_f_measure_of_the_longest_common_words() -> None:
    pairs = [("the cat sat", "the cat ran off"), ("a b", "c d"), ("…", "…"), ("Yes!", "yes")]
    assert rouge_l(pairs) == pytest.approx([4 / 7, 0.0, 1.0, 1.0])
    assert mean_rouge_l(pairs) == pytest.approx((4 / 7 + 2) / 4)
    assert mean_rouge_l([]) is None
