"""The interface of a context store, with what every implementation promises.

A store owns contexts: it opens, finds, closes and expires them within a byte budget. It never
computes and never speaks HTTP.
"""

from contextlib import AbstractContextManager
from typing import Literal, Protocol

from services.cloud.contexts.context import Context
from services.cloud.contexts.prefixes import Prefixes
from shared.protocol.messages import Opening

# What befalls a context, for metrics: the last four ways it leaves, or loses its KV only.
Change = Literal["opened", "closed", "expired", "evicted", "kv_evicted"]


class ContextStore(Protocol):
    """Contexts by session id. A context in use (inside `using`) is never evicted."""

    def using(
        self, session: str, opening: Opening | None
    ) -> AbstractContextManager[Context | None]:
        """Find the session's context, or open it when `opening` is given; `None` when it is neither
        here nor opened.

        Raises:
            Mismatch: the session is open with other parameters.
            Overloaded: no room for another context.
        """
        ...

    def make_room(self, context: Context, extra: int) -> None:
        """Make sure `extra` more bytes for `context` fit the budget, giving up first what is kept
        of ended sessions, then idle ones' KV, then whole contexts.

        Raises:
            Overloaded: everything else is in use.
        """
        ...

    def close(self, session: str) -> bool:
        """Forget a session; true if it was here."""
        ...

    def sweep(self) -> int:
        """Forget contexts idle for longer than the time to live; returns how many."""
        ...

    @property
    def prefixes(self) -> Prefixes:
        """Where the KV of prompts is that others begin with."""
        ...

    def __len__(self) -> int:
        """Contexts held."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held by all contexts, KV included."""
        ...
