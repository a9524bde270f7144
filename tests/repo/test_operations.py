"""The tables of `docs/operations.md` are the code's: nothing in them is missing or stale."""

import re

import pytest

from tests.repo.tree import ROOT
from tests.support.settings import SETTINGS, variable
from tests.support.tables import DOCUMENT, MARKED, TABLES, written

TEXT = DOCUMENT.read_text()


def test_every_table_is_in_the_document_once() -> None:
    assert sorted(found[1] for found in MARKED.findall(TEXT)) == sorted(TABLES)


def test_the_tables_are_those_the_code_makes() -> None:
    assert written(TEXT) == TEXT, "run `python -m tests.support.tables`"


@pytest.mark.parametrize("side", SETTINGS)
def test_every_setting_has_a_row_that_says_what_it_is(side: str) -> None:
    table = TABLES[f"{side} settings"]()
    for name in SETTINGS[side]:
        row = re.search(rf"^\| `{variable(side, name)}` \| (.+) \| (.+) \|$", table, re.MULTILINE)
        assert row is not None, name
        assert len(row[2]) > 10, name


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_every_metric_says_what_it_counts(side: str) -> None:
    rows = TABLES[f"{side} metrics"]().splitlines()[2:]
    assert len(rows) > 10
    for row in rows:
        name, kind, _, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
        assert name.startswith("`tandem_"), row
        assert kind in ("counter", "gauge", "histogram", "info"), row
        assert len(meaning) > 10, row


def test_every_variable_named_in_the_text_is_a_setting() -> None:
    known = {variable(side, name) for side, names in SETTINGS.items() for name in names}
    named = set(re.findall(r"TANDEM_(?:EDGE|CLOUD)_[A-Z_]*[A-Z]", TEXT))
    assert named <= known


def test_every_file_the_document_points_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        if "://" not in target:
            assert (ROOT / "docs" / target).exists(), target
