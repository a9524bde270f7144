"""What a step of the edge takes by how many rows it runs: a line fitted to the steps so far."""

from dataclasses import dataclass

# Half of what was seen is forgotten after about 140 steps.
_KEPT = 0.995
# A line is not drawn through steps of hardly different size.
_SPREAD = 0.5


@dataclass(slots=True)
class StepTimes:
    """Weighted least squares of seconds over rows."""

    _weight: float = 0.0
    _rows: float = 0.0
    _seconds: float = 0.0
    _rows_rows: float = 0.0
    _rows_seconds: float = 0.0

    def take(self, rows: int, seconds: float) -> None:
        """Take in a step."""
        self._weight = self._weight * _KEPT + 1
        self._rows = self._rows * _KEPT + rows
        self._seconds = self._seconds * _KEPT + seconds
        self._rows_rows = self._rows_rows * _KEPT + rows * rows
        self._rows_seconds = self._rows_seconds * _KEPT + rows * seconds

    @property
    def row_seconds(self) -> float:
        """What one row more makes a step longer; 0 while steps hardly differ in rows."""
        if not self._weight:
            return 0.0
        mean = self._rows / self._weight
        spread = self._rows_rows / self._weight - mean * mean
        if spread < _SPREAD:
            return 0.0
        both = self._rows_seconds / self._weight - mean * self._seconds / self._weight
        return max(0.0, both / spread)
