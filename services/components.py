"""Prints what an image holds of Python, a pin a line: what pip installs, and what that needs.

    python -m services.components edge     of the edge's image; also `cloud` and `load`

Read off the installed packages, so it runs where `make install` has been; their versions are those
of constraints.txt, which images install with too. torch is what is installed here: an image may
bring another build of it.
"""

import argparse
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.requirements import requirements

# A service's image holds what all services need and its own extras; the load generator's its extra.
IMAGES: dict[str, tuple[str | None, ...]] = {
    "edge": (None, "edge", "tracing"),
    "cloud": (None, "cloud", "tracing"),
    "load": ("load",),
}


def components(image: str, pyproject: Path) -> dict[str, str]:
    """Version by name of everything in an image.

    Raises:
        SystemExit: a package that the image needs is not installed here.
    """
    waiting = [
        Requirement(line) for part in IMAGES[image] for line in requirements(pyproject, part)
    ]
    seen: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    while waiting:
        needed = waiting.pop()
        try:
            installed = distribution(needed.name)
        except PackageNotFoundError as error:
            raise SystemExit(f"{needed.name} is not installed; run `make install`") from error
        name = canonicalize_name(needed.name)
        found[name] = installed.version
        for extra in {"", *needed.extras} - {extra for each, extra in seen if each == name}:
            seen.add((name, extra))
            following = map(Requirement, installed.requires or ())
            waiting += [
                each
                for each in following
                if (each.marker is None and not extra)
                or (each.marker is not None and each.marker.evaluate({"extra": extra}))
            ]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", choices=IMAGES)
    held = components(parser.parse_args().image, Path("pyproject.toml"))
    sys.stdout.write("".join(f"{name}=={held[name]}\n" for name in sorted(held)))
