"""Session contexts of the cloud: what one holds (`context`), what a store promises (`base`), and
stores.
"""

from services.cloud.contexts.base import Behind, Change, ContextStore
from services.cloud.contexts.context import Context, Standing, key_of
from services.cloud.contexts.durable import DurableContexts
from services.cloud.contexts.guard import Guard
from services.cloud.contexts.memory import MemoryContexts
from services.cloud.contexts.record import Form
from services.cloud.contexts.redis import RedisLogs
from services.cloud.contexts.sealing import seal_of
from services.cloud.contexts.verified import Node, VerifiedContext

__all__ = [
    "Behind",
    "Change",
    "Context",
    "ContextStore",
    "DurableContexts",
    "Form",
    "Guard",
    "MemoryContexts",
    "Node",
    "RedisLogs",
    "Standing",
    "VerifiedContext",
    "key_of",
    "seal_of",
]
