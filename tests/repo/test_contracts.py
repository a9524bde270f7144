"""Who may import whom: the contracts of pyproject.toml hold, for every package there is."""

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.repo.tree import ROOT

LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def test_the_import_contracts_are_kept() -> None:
    lint = (Path(sys.executable).parent / "lint-imports", "--no-cache")
    outcome = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_every_package_of_the_distribution_is_under_contract() -> None:
    packages = {init.parent.name for init in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(LINTER["root_packages"])


def test_layers_leave_no_file_of_their_packages_out() -> None:
    exhaustive = {
        container
        for contract in LINTER["contracts"]
        if contract.get("exhaustive")
        for container in contract["containers"]
    }
    assert exhaustive == {"services.edge", "services.cloud", "shared", "training"}
