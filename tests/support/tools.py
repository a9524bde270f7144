"""Programs that tests need and pip does not install."""

import os
import shutil

import pytest


def required(program: str, package: str) -> str:
    """Where a program is; without it the test is skipped, or fails in CI."""
    found = shutil.which(program)
    if found:
        return found
    missing = f"{program} is missing: Debian's package `{package}` has it"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
