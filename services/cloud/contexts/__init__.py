"""Session contexts of the cloud: what one holds (`context`), what a store promises (`base`), and
stores.
"""

from services.cloud.contexts.base import ContextStore
from services.cloud.contexts.context import Context, Standing
from services.cloud.contexts.memory import MemoryContexts

__all__ = ["Context", "ContextStore", "MemoryContexts", "Standing"]
