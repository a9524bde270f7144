"""The price list: what it was fitted to, what it was not, and how it is applied."""

import pytest

from benchmarks.paced.prices import FITTED, PAPER_MS, Prices, deviations, paper_prices


def test_the_fitted_costs_are_met_exactly() -> None:
    found = deviations(paper_prices())
    for name in FITTED:
        assert found[name][0] == pytest.approx(PAPER_MS[name])


def test_the_costs_not_fitted_are_met_within_a_ninth() -> None:
    found = deviations(paper_prices())
    assert set(found) == set(PAPER_MS)
    for name in set(PAPER_MS) - set(FITTED):
        ours, published = found[name]
        assert ours == pytest.approx(published, rel=0.12), name


def test_no_price_is_negative() -> None:
    prices = paper_prices()
    assert min(prices.step, prices.layer, prices.head, prices.row) > 0


def test_a_cloud_that_starts_at_a_quarter_cannot_be_priced() -> None:
    """Why the fit takes the paper's cloud to start at half of the depth."""
    layer = (PAPER_MS["cloud-only"] - PAPER_MS["cloud pass"]) / 8
    step_and_head = PAPER_MS["cloud-only"] - 32 * layer
    assert step_and_head < 0


def test_scaling_keeps_the_whole_models_price() -> None:
    prices = paper_prices()
    small = prices.scaled_to(12)
    assert small.forward(12, 1) == pytest.approx(prices.forward(32, 1))
    assert small.forward(3, 5) == pytest.approx(prices.forward(8, 5))


def test_a_forward_pays_its_step_once_and_rows_by_depth() -> None:
    prices = Prices(step=4.0, layer=1.0, head=3.0, row=0.6, depth=12)
    assert prices.forward(12, 1) == pytest.approx(16.0)
    assert prices.forward(12, 11) == pytest.approx(22.0)
    assert prices.forward(6, 11, begins=False) == pytest.approx(9.0)
