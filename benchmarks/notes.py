"""What processes of the benchmark note as they run, one JSON object a line; all of them on one
machine, so that their moments are of one clock (`time.perf_counter`).
"""

import json
from pathlib import Path
from typing import Any


class Notes:
    """A file that is added to; every line is there as soon as it is noted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, **noted: object) -> None:
        """Note one thing."""
        with self._path.open("a") as file:
            file.write(json.dumps(noted) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Everything noted so far; a line still being written is left out."""
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]
