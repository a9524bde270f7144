"""What the cloud has cost a session so far."""

from dataclasses import dataclass

from shared.protocol.messages import Report


@dataclass(slots=True)
class Spent:
    """What the cloud has cost this session so far, from its own cumulative figures."""

    requests: int = 0
    passes: int = 0
    compute_seconds: float = 0.0
    network_seconds: float = 0.0
    near_ties: int = 0
    _passes_before: int = 0
    _compute_before: float = 0.0

    def take(self, report: Report) -> None:
        """Take in a report's totals; they start again when the cloud had lost the session."""
        if report.need_from == 0:
            self._passes_before, self._compute_before = self.passes, self.compute_seconds
            return
        self.passes = max(self.passes, self._passes_before + report.passes)
        self.near_ties = max(self.near_ties, report.near_ties)
        self.compute_seconds = max(
            self.compute_seconds, self._compute_before + report.compute_seconds
        )

    def waited(self, seconds: float, cloud_seconds: float) -> None:
        """Add a wait for the cloud, of which the cloud says `cloud_seconds` were its own."""
        self.network_seconds += max(0.0, seconds - cloud_seconds)
