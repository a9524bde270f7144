"""Small modules, short functions, words that mean something: what every source file keeps."""

import ast
import re
from pathlib import Path

from tests.repo.tree import ROOT, files, name

FILE_LINES = 300
FUNCTION_LINES = 60
# A name that says nothing of what a thing is; as a whole word of a file's or class's name.
EMPTY_WORDS = {
    "common",
    "handler",
    "helper",
    "helpers",
    "manager",
    "misc",
    "processor",
    "util",
    "utils",
}

SOURCES: dict[Path, ast.Module] = {module: ast.parse(module.read_text()) for module in files(".py")}


def _words(identifier: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def test_a_module_is_at_most_300_lines() -> None:
    lengths = {name(module): len(module.read_text().splitlines()) for module in SOURCES}
    assert not {module: length for module, length in lengths.items() if length > FILE_LINES}


def test_a_function_is_at_most_60_lines() -> None:
    lengths = {
        f"{name(module)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {function: length for function, length in lengths.items() if length > FUNCTION_LINES}


def test_a_module_that_holds_anything_says_what_it_is() -> None:
    silent = [
        name(module)
        for module, tree in SOURCES.items()
        if tree.body and not ast.get_docstring(tree)
    ]
    assert not silent


def test_no_file_folder_or_class_has_an_empty_word_for_a_name() -> None:
    named = {
        f"{name(module)}: {word}"
        for module, tree in SOURCES.items()
        for word in (
            *module.with_suffix("").relative_to(ROOT).parts,
            *(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)),
        )
        if _words(word) & EMPTY_WORDS
    }
    assert not named
