"""The files of this repository as the tests of its rules see them: what git would track."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def files(*suffixes: str) -> list[Path]:
    """Every file that is tracked or could be, sorted; only those with a given suffix, if any."""
    return [f for f in _tracked() if f.is_file() and (not suffixes or f.suffix in suffixes)]


def name(path: Path) -> str:
    """The path as a person writes it: relative to the repository's root."""
    return str(path.relative_to(ROOT))


def _tracked() -> list[Path]:
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        return sorted(_outside_a_repository())
    return sorted({ROOT / name for name in listed.stdout.decode().split("\0") if name})


def _outside_a_repository() -> set[Path]:
    """In a copy without git: all but what git would ignore."""
    made = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    return {
        file
        for file in ROOT.rglob("*")
        if not any(part in made or part.endswith(".egg-info") for part in file.parts)
    }
