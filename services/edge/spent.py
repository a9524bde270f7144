"""What the cloud has cost a session so far, and said of it."""

from dataclasses import dataclass, field

from shared.protocol.messages import Report


@dataclass(slots=True)
class Spent:
    """What the cloud has cost this session so far, from its own cumulative figures.

    `judged` and `disagreed` are what it said of kept tokens, `queued` what waited there last;
    `others` are the tokens it would have put in place of kept ones, by position.
    """

    requests: int = 0
    passes: int = 0
    compute_seconds: float = 0.0
    network_seconds: float = 0.0
    near_ties: int = 0
    judged: int = 0
    disagreed: int = 0
    queued: int = 0
    others: dict[int, int] = field(default_factory=dict)
    _passes_before: int = 0
    _compute_before: float = 0.0

    def take(self, report: Report) -> None:
        """Take in a report's totals; they start again when the cloud had lost the session."""
        if report.need_from == 0:
            self._passes_before, self._compute_before = self.passes, self.compute_seconds
            self.judged = self.disagreed = 0
            return
        if report.judged >= self.judged:  # reports may come in any order
            self.judged, self.disagreed = report.judged, report.disagreed
        self.others.update((each.position, each.token) for each in report.disagreements)
        self.queued = report.pressure.queued
        self.passes = max(self.passes, self._passes_before + report.passes)
        self.near_ties = max(self.near_ties, report.near_ties)
        self.compute_seconds = max(
            self.compute_seconds, self._compute_before + report.compute_seconds
        )

    def waited(self, seconds: float, cloud_seconds: float) -> None:
        """Add a wait for the cloud, of which the cloud says `cloud_seconds` were its own."""
        self.network_seconds += max(0.0, seconds - cloud_seconds)
