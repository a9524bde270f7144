"""Prints what pip installs for one side, from pyproject.toml: the requirements without the sources.

An image installs them before it copies any code, so that a change of code builds in seconds. It
knows the standard library only, since nothing is installed yet when it runs.

    python requirements.py             what every service needs
    python requirements.py --only load what the extra named `load` needs, and nothing else
"""

import argparse
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, only: str | None) -> list[str]:
    """The lines for pip: the project's dependencies, or those of one extra.

    Raises:
        SystemExit: there is no such extra.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    if only is None:
        return list(project["dependencies"])
    extras: dict[str, list[str]] = project["optional-dependencies"]
    if only not in extras:
        raise SystemExit(f"no extra named {only}; there are {', '.join(sorted(extras))}")
    return extras[only]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="EXTRA")
    chosen = requirements(Path("pyproject.toml"), parser.parse_args().only)
    sys.stdout.write("".join(f"{line}\n" for line in chosen))
