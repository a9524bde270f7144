"""Nothing that is read can run: no module unpickles, evaluates or loads code that comes as data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

FOLDERS = ("shared", "services", "cli", "training", "benchmarks", "monitoring", "tests")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "torch.load", "torch.jit.load", "np.load", "numpy.load"}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path"}
OPTIONS = {"trust_remote_code", "allow_pickle", "shell"}


def findings(source: str) -> Iterator[str]:
    """What in a module could make code of data."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (n.name for n in names if n.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)):
                yield from {module} & MODULES
            case ast.Call(func=func, keywords=keywords):
                only_weights = any(
                    each.arg == "weights_only" and ast.unparse(each.value) == "True"
                    for each in keywords
                )
                yield from set() if only_weights else {ast.unparse(func)} & CALLS
                for keyword in keywords:
                    on = not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
                    yield from {keyword.arg} & OPTIONS if on and keyword.arg else ()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_makes_code_of_data(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    found = {str(p.relative_to(ROOT)): set(findings(p.read_text())) for p in paths}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "torch.load('x')",
        "yaml.load(text)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
    ],
)
def test_what_would_is_found(source: str) -> None:
    assert list(findings(source))


def test_no_checkpoint_that_ships_is_pickled() -> None:
    pickled = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy"}
    assert [path for path in Path(ROOT / "models").rglob("*") if path.suffix in pickled] == []
