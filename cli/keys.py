"""`tandem keys`: make a key, print it once, and write its digest where a service looks.

The file is the one TANDEM_EDGE_KEYS_FILE or TANDEM_CLOUD_KEYS_FILE names; what it may hold
`shared.access.keys` tells.
"""

import os
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from cli.errors import CommandError
from cli.terminal import console
from shared.access import SCOPES, Scope, digest_of, new_key, read_keys
from shared.errors import Invalid

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Count = Annotated[int | None, typer.Option(min=1, show_default="no bound of its own")]


def keys(
    name: Annotated[str, typer.Argument(help="Whom the key is for: letters, digits, . _ -")],
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="File of keys to add it to, made if need be; else what to add is shown."),
    ] = None,
    scope: Annotated[
        list[str], typer.Option(help=f"What it allows; repeat. {', '.join(SCOPES)}.")
    ] = ["generate"],  # noqa: B006 - typer reads it, nobody writes to it
    owner: Annotated[
        str | None,
        typer.Option(
            help="Whose its sessions are: the same for edges that take over each other's."
        ),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="It expires after so many.")] = None,
    requests_per_minute: Count = None,
    tokens_per_minute: Count = None,
    concurrent: Count = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Known by this client certificate (PEM), not by a key.")
    ] = None,
) -> None:
    """Make a key: it goes to standard output, once; the file holds only its digest."""
    if not _NAME.fullmatch(name):
        raise CommandError(f"{name}: a name is 1 to 64 letters, digits, dots, hyphens, underscores")
    key = None if certificate else new_key()
    entry: dict[str, Any] = {
        "sha256": digest_of(key).hex() if key else None,
        "certificate_sha256": fingerprint(certificate) if certificate else None,
        "scopes": _scopes(scope),
        "owner": owner,
        "expires": datetime.now(UTC).replace(microsecond=0) + timedelta(days) if days else None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
    }
    written = _toml(name, {field: value for field, value in entry.items() if value is not None})
    told = console(stderr=True)
    try:
        if file is None:
            read_keys(written)
            told.print("[dim]add this to the file of keys:[/]")
            told.out(written, highlight=False)
        else:
            _add(file, name, written)
            told.print(f"[dim]{name} is in {file}; services that read it know it in a second[/]")
    except Invalid as error:
        raise CommandError(f"nothing was written: {error.message}") from error
    if key is not None:
        typer.echo(key)


def fingerprint(certificate: Path) -> str:
    """SHA-256 of the first certificate of a PEM file, in its DER form, as 64 hexadecimal digits.

    Raises:
        CommandError: there is none in it.
    """
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        text = certificate.read_text(encoding="ascii")
        first = text[text.index(begin) : text.index(end) + len(end)]
        return sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    except OSError as error:
        raise CommandError(f"--certificate {certificate}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"--certificate {certificate}: no certificate in PEM form") from error


def _scopes(given: Sequence[str]) -> list[Scope]:
    known = {str(scope): scope for scope in get_args(Scope)}
    if wrong := [each for each in given if each not in known]:
        raise CommandError(f"--scope {wrong[0]}: allowed: {', '.join(known)}")
    return [known[each] for each in given]


def _toml(name: str, entry: dict[str, Any]) -> str:
    def value(of: Any) -> str:
        match of:
            case datetime():
                return of.isoformat().replace("+00:00", "Z")
            case int():
                return str(of)
            case list():
                return "[" + ", ".join(f'"{each}"' for each in of) + "]"
            case _:
                return f'"{of}"'

    lines = (f"{field} = {value(of)}" for field, of in entry.items())
    return "\n".join([f'[keys."{name}"]', *lines]) + "\n"


def _add(file: Path, name: str, written: str) -> None:
    """Put an entry at the end of a file: another takes its place at once, so that no service ever
    reads half of one.
    """
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if before and name in read_keys(before).names:
            raise CommandError(f"{name} is in {file} already: take it out, or choose another name")
        text = f"{before.rstrip()}\n\n{written}".lstrip()
        read_keys(text)
        # Only its owner may read it, unless it is there and says otherwise.
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.touch(mode)
        beside.chmod(mode)
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise CommandError(f"--file {file}: {why}") from error
