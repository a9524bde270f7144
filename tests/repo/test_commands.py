"""The commands: `make` lists its targets, none is longer than two lines, and the README's exist."""

import re
import subprocess

import pytest

from tests.repo.tree import ROOT, files, name

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z][a-z0-9-]*):.*?## (.+)$", MAKEFILE, flags=re.MULTILINE))


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    # Run from within another make, as the suite itself is, make would also say where it is.
    command = ("make", "--no-print-directory")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1]: " ".join(line.split()[2:]) for line in listed.splitlines()} == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_at_most_two_lines(target: str) -> None:
    recipe = MAKEFILE.partition(f"\n{target}:")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(recipe) <= 2


def test_every_target_is_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert set(phony.split()) == set(TARGETS)


def test_every_make_target_a_document_names_exists() -> None:
    named = {
        (name(document), target)
        for document in files(".md")
        for target in re.findall(r"`make ([a-z][a-z0-9-]*)", document.read_text())
    }
    assert not {(document, target) for document, target in named if target not in TARGETS}
