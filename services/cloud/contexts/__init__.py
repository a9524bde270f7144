"""Session contexts of the cloud: what one holds (`context`), what a store promises (`base`), and
stores.
"""

from services.cloud.contexts.base import Change, ContextStore
from services.cloud.contexts.context import Context, Standing
from services.cloud.contexts.memory import MemoryContexts
from services.cloud.contexts.verified import Node, VerifiedContext

__all__ = [
    "Change",
    "Context",
    "ContextStore",
    "MemoryContexts",
    "Node",
    "Standing",
    "VerifiedContext",
]
