"""Files of keys, as tests hand them to a service."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path


def written_keys(file: Path, keys: Mapping[str, str]) -> Path:
    """Write keys to a file: what each is sent as, and the rest of its table, in TOML."""
    file.write_text(
        "".join(
            f'[keys.key-{n}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n{rest}\n'
            for n, (key, rest) in enumerate(keys.items())
        )
    )
    return file


def bearer(key: str) -> dict[str, str]:
    """The header that sends a key."""
    return {"authorization": f"Bearer {key}"}
