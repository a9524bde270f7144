"""Who stands on whom: depths and ancestors as following the parents one by one gives them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model import Lineage, is_line


@st.composite
def families(draw: st.DrawFn) -> list[int]:
    return [draw(st.integers(-1, row - 1)) for row in range(draw(st.integers(0, 20)))]


def line(parents: list[int], row: int) -> list[int]:
    return [row] if parents[row] < 0 else [*line(parents, parents[row]), row]


@given(families())
def test_a_row_sees_itself_and_its_ancestors(parents: list[int]) -> None:
    lineage = Lineage.of(parents)
    assert lineage.visible.shape == (len(parents), len(parents))
    for row in range(len(parents)):
        expected = line(parents, row)
        assert lineage.visible[row].nonzero().flatten().tolist() == expected
        assert lineage.depths[row] == len(expected) - 1


@given(families())
def test_a_line_is_a_tree_whose_rows_see_all_before_them(parents: list[int]) -> None:
    visible = Lineage.of(parents).visible
    assert is_line(parents) == bool(visible.equal(visible.new_ones(visible.shape).tril()))


@pytest.mark.parametrize("parents", [[0], [-1, 1], [-1, 0, 2], [-2], [1, -1]])
def test_a_row_comes_after_its_parent(parents: list[int]) -> None:
    with pytest.raises(ValueError, match="stands on row"):
        Lineage.of(parents)
