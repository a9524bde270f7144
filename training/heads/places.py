"""Where learned exits are made and where they are put: all of them at the end, or none.

A run works in a folder of its own that shows the checkpoint's files as links. What it made is moved
to its place when everything is done, so a run that is killed leaves what was there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from shared.model.exits import INDEX, WEIGHTS

# What is said of exits, beside them: with other exits it would be wrong.
_OF_EXITS = ("exits.*", "calibration.json", "agreement*.json", "translators.*")
# A drafter brings its own exit, but not the one in front of its split.
_SAID_OF_THEM = (*_OF_EXITS, "drafter-*", "evaluation.json")


def has_exits(folder: Path) -> bool:
    """Whether a folder has exits, or half of them."""
    return (folder / INDEX).exists() or (folder / WEIGHTS).exists()


@contextmanager
def view(checkpoint: Path) -> Iterator[Path]:
    """A temporary folder with links to a checkpoint's files, without what is said of exits."""
    with TemporaryDirectory(prefix="tandem-exits-") as name:
        work = Path(name)
        for path in _shown(checkpoint):
            (work / path.name).symlink_to(path.resolve())
        yield work


def publish(work: Path, target: Path, *, copied: Path | None = None) -> None:
    """Put what was made in a view into `target`, the index of the exits last, and first the files
    of the checkpoint `copied`, if one is given.

    Each file is replaced as a whole. From the first to the last of them there is no index, and
    whoever reads refuses exits without one: never do old and new ones mix.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in [] if copied is None else _shown(copied):
        _put(path, target)
    (target / INDEX).unlink(missing_ok=True)
    for pattern in _SAID_OF_THEM:
        for stale in target.glob(pattern):
            stale.unlink()
    made = sorted(path for path in work.iterdir() if not path.is_symlink())
    for path in sorted(made, key=lambda path: path.name == INDEX):
        _put(path, target)


def _put(path: Path, target: Path) -> None:
    part = target / f"{path.name}.part"
    shutil.copyfile(path, part)
    part.chmod(0o644)  # safetensors writes for its owner alone
    os.replace(part, target / path.name)


def _shown(checkpoint: Path) -> list[Path]:
    hidden = {path for pattern in _SAID_OF_THEM for path in checkpoint.glob(pattern)}
    return sorted(path for path in checkpoint.iterdir() if path.is_file() and path not in hidden)
