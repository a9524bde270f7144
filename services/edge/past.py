"""What exits have said in a text so far, folded as the exit policy wants it, position by position.

Whoever makes a text anew has the same history at every position: it follows from the prompt, the
tokens and the model alone, so a text that is taken up again needs none of it kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.exits.policy import Asked, Policy


@dataclass(slots=True)
class Past:
    """The histories of one text. Positions at which no exit was asked leave it as it is."""

    policy: Policy
    _folded: list[tuple[int, Any]] = field(default_factory=list)

    def before(self, position: int) -> Any:
        """The history of everything the exits said at positions before this one, which is beyond
        all but the newest of them.
        """
        for at, history in reversed(self._folded):
            if at < position:
                return history
        return self.policy.start()

    def heard(self, position: int, asked: Sequence[Asked]) -> None:
        """Add what the exits said at a position, the newest so far."""
        history = self.policy.after(self.before(position), asked)
        if history is not None:
            self._folded.append((position, history))

    def go_back(self, position: int) -> None:
        """Forget what was said behind `position`; what was said there holds, whatever token was put
        in the place of the one it spoke of.
        """
        while self._folded and self._folded[-1][0] > position:
            self._folded.pop()
