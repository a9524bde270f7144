"""Who may come in: keys, what each allows, and whom a request is counted for. Knows no HTTP."""

from shared.access.caller import Caller
from shared.access.door import names_another, open_door, scopes_of
from shared.access.doorkeeper import Doorkeeper
from shared.access.key_file import KeyFile, SentKey
from shared.access.keys import (
    SCOPES,
    Key,
    KeyRing,
    Limits,
    Scope,
    digest_of,
    limits_of,
    new_key,
    read_keys,
)

__all__ = [
    "SCOPES",
    "Caller",
    "Doorkeeper",
    "Key",
    "KeyFile",
    "KeyRing",
    "Limits",
    "Scope",
    "SentKey",
    "digest_of",
    "limits_of",
    "names_another",
    "new_key",
    "open_door",
    "read_keys",
    "scopes_of",
]
