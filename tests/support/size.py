"""The two sizes of the suite. Knows nothing of pytest: `tests/conftest.py` reads the option."""

from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Size(StrEnum):
    """Short runs in minutes on two cores; long is the size at which a property is claimed."""

    SHORT = "short"
    LONG = "long"

    def pick(self, *, short: T, long: T) -> T:
        """The value that belongs to this size."""
        return long if self is Size.LONG else short
