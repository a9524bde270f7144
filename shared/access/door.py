"""How a service's door is opened, from what its settings say: the same on both sides."""

import ipaddress
from collections.abc import Set
from pathlib import Path
from typing import Protocol, cast

from shared.access.doorkeeper import Doorkeeper
from shared.access.key_file import KeyFile
from shared.access.keys import SCOPES, Scope
from shared.errors import Invalid


def scopes_of(listed: str) -> frozenset[Scope]:
    """The scopes of a list with commas between.

    Raises:
        Invalid: there is no such scope; it is named.
    """
    words = [word.strip() for word in listed.split(",") if word.strip()]
    for word in words:
        if word not in SCOPES:
            raise Invalid(f"{word!r} is no scope; there are {', '.join(SCOPES)}", field=word)
    return frozenset(cast("list[Scope]", words))


class Settings(Protocol):
    """What says who may come in."""

    @property
    def keys_file(self) -> Path | None: ...
    @property
    def without_key(self) -> str | None: ...
    @property
    def host(self) -> str: ...


def open_door(settings: Settings, *, usual: Set[Scope], prefix: str) -> Doorkeeper:
    """Return who lets callers in.

    Args:
        usual: scopes of callers without a key, where it is not said which they have, nobody beyond
            this machine can ask and there is no file of keys.
        prefix: of the settings, for whoever has to change them.

    Raises:
        Invalid: the keys cannot be read, a scope is none, or nobody could come in.
    """
    keys_file = settings.keys_file
    if settings.without_key is not None:
        strangers = scopes_of(settings.without_key)
    else:
        closed = keys_file is not None or not is_loopback(settings.host)
        strangers = frozenset() if closed else frozenset(usual)
    if keys_file is not None:
        return Doorkeeper(KeyFile(keys_file), strangers)
    if not strangers:
        raise Invalid(
            f"nobody could come in: name a file of keys in {prefix}KEYS_FILE, or what callers "
            f"without a key may do in {prefix}WITHOUT_KEY ({','.join(sorted(usual))})"
        )
    return Doorkeeper(strangers=strangers, here=settings.without_key is None)


def names_another(host: str) -> bool:
    """Whether a `Host` header speaks of a machine that the public name service could know: a name
    with a dot. Whoever owns it can make it point at 127.0.0.1 while a page of theirs is open (DNS
    rebinding); what a browser sends in `Host` is that name.
    """
    name = host.rsplit(":", 1)[0].strip("[]").rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." in name and not name.endswith(".localhost")
    return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
