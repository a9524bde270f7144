"""Whoever a request comes from, as far as a service can tell."""

from dataclasses import dataclass, field

from shared.access.keys import Limits, Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        owner: whose sessions are theirs; empty for everybody who came without a key.
        client: 16 hexadecimal digits that shares and limits are counted under; only this process
            can make them, so they tell nothing of who it is.
        known: whether a key was sent, and is one.
    """

    owner: str = ""
    client: str = ""
    scopes: frozenset[Scope] = frozenset()
    limits: Limits = field(default_factory=Limits)
    known: bool = False

    def may(self, scope: Scope) -> bool:
        """Whether they may do this."""
        return scope in self.scopes

    @property
    def came_in(self) -> bool:
        """Whether they are anybody here: by a key, or because strangers may do something."""
        return self.known or bool(self.scopes)
