"""Every setting says what it is for, where it is declared."""

import ast
from collections.abc import Iterator

import pytest

from tests.repo.tree import ROOT

SETTINGS = sorted(ROOT.glob("services/*/settings.py"))


def _fields() -> Iterator[tuple[str, bool]]:
    """(name, described) of each field: by a comment above or beside it, or a description."""
    for module in SETTINGS:
        lines = module.read_text().splitlines()
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign):
                        own = lines[field.lineno - 1 : field.end_lineno]
                        above = lines[field.lineno - 2].strip()
                        described = above.startswith("#") or any(
                            "#" in line or "description=" in line for line in own
                        )
                        yield f"{module.parent.name}.{ast.unparse(field.target)}", described


def test_both_services_have_settings() -> None:
    assert [module.parent.name for module in SETTINGS] == ["cloud", "edge"]


@pytest.mark.parametrize(("field", "described"), list(_fields()))
def test_a_setting_is_described(field: str, *, described: bool) -> None:
    assert described, f"{field} has no comment"
