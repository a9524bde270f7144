"""The interface of a context store, with what every implementation promises.

A store owns contexts: it opens, finds, closes and expires them within a byte budget. It never
computes and never speaks HTTP.
"""

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Literal, Protocol

from services.cloud.contexts.context import Context
from services.cloud.contexts.prefixes import Prefixes
from shared.protocol.messages import Opening

# What befalls a context, for metrics: the last four ways it leaves, or loses its KV only.
Change = Literal["opened", "closed", "expired", "evicted", "kv_evicted"]


class Behind(Exception):
    """Another replica has gone on with the session at the same revision, and the context now says
    what that one has stored: whatever was done to it before has to be done again.
    """


class ContextStore(Protocol):
    """Contexts by session id. A context in use (inside `using` or `holding`) is never evicted."""

    def using(
        self, session: str, opening: Opening | None, revision: int, owner: str = ""
    ) -> AbstractAsyncContextManager[Context | None]:
        """Find the owner's session as it is at `revision`, or open it when `opening` is given;
        `None` when it is neither known nor opened.

        Raises:
            Fenced: it has gone on at a later revision, or was closed not before this one.
            Mismatch: the session is open with other parameters.
            Overloaded: no room for another context.
            NotFound: nothing is opened, and the session here is another owner's.
        """
        ...

    def holding(self, context: Context) -> AbstractContextManager[bool]:
        """Hold a context met before; false if it is no longer the session's."""
        ...

    async def save(self, context: Context) -> None:
        """Make what has changed last, before any report tells of it. The caller has its `turn`.

        Raises:
            Fenced: the session has gone on at a later revision, or was closed.
            Behind: another replica went on at this revision; see there.
        """
        ...

    def make_room(self, context: Context, extra: int) -> None:
        """Make sure `extra` more bytes for `context` fit the budget, giving up first what is kept
        of ended sessions, then idle ones' KV, then whole contexts.

        Raises:
            Overloaded: everything else is in use.
        """
        ...

    async def close(self, session: str, revision: int, owner: str = "") -> bool:
        """Forget a session, unless it has gone on at a later revision; true if it was here. For a
        while its owner cannot open it again at this revision or an earlier one.

        Raises:
            NotFound: the session here is another owner's.
        """
        ...

    def sweep(self) -> int:
        """Forget contexts idle for longer than the time to live; returns how many."""
        ...

    async def aclose(self) -> None:
        """Give back what the store holds of the outside world."""
        ...

    @property
    def prefixes(self) -> Prefixes:
        """Where the KV of prompts is that others begin with."""
        ...

    def __contains__(self, key: str) -> bool:
        """Whether this process holds the context of a session's key (`key_of`)."""
        ...

    def __len__(self) -> int:
        """Contexts held."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held by all contexts, KV included."""
        ...
