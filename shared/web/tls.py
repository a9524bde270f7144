"""TLS from files that may be renewed at any time: whoever connects next is met with what they hold
then.
"""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from threading import Lock

_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class Renewed:
    """A TLS context made of files, and made anew when they have changed.

    Args:
        make: makes it. Raises `OSError` or `ValueError` where the files do not do.
        files: those it is made of.

    Raises:
        OSError, ValueError: they do not do from the start.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], *files: Path | None) -> None:
        self._make = make
        self._files = [file for file in files if file is not None]
        self._lock = Lock()
        self._stamp = self._look()
        self._context = make()

    def context(self) -> ssl.SSLContext:
        """The context for a new connection. Files that do not do, such as a certificate whose new
        key is still to come, leave it as it was.
        """
        with self._lock:
            try:
                stamp = self._look()
            except OSError:
                return self._context  # being replaced
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._make()
                    _log.info("TLS certificates renewed")
                except (OSError, ValueError) as error:
                    _log.warning("TLS certificates not renewed", extra={"reason": str(error)})
            return self._context

    def _look(self) -> Stamp:
        found = [file.stat() for file in self._files]
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)


def server_tls(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> Renewed | None:
    """The TLS of a service, or None where it has none. With a `client_ca`, clients must show a
    certificate of it.

    Raises:
        ValueError: the files do not do, and why.
    """
    if certificate is None or key is None:
        if certificate is None and key is None and client_ca is None:
            return None
        raise ValueError("tls_certificate_file and tls_key_file go together; one is missing")

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _show(context, certificate, key)
        if client_ca is not None:
            _trust(context, client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return _renewed(make, certificate, key, client_ca)


def client_tls(
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    *,
    system: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> Renewed:
    """The TLS of a client: trusts the authorities of `system`, or `ca` alone; shows a certificate
    where it has one.

    Raises:
        ValueError: the files do not do, and why.
    """
    if (certificate is None) != (key is None):
        raise ValueError(
            "cloud_certificate_file and cloud_certificate_key_file go together; one is missing"
        )

    def make() -> ssl.SSLContext:
        context = system() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca is not None:
            _trust(context, ca)
        if certificate is not None and key is not None:
            _show(context, certificate, key)
        return context

    return _renewed(make, ca, certificate, key)


def _renewed(make: Callable[[], ssl.SSLContext], *files: Path | None) -> Renewed:
    for file in files:
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:
            raise ValueError(f"TLS: cannot read {file}: {error.strerror}") from error
    return Renewed(make, *files)


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:
        raise ValueError(f"TLS: {key} is encrypted; a key without a password is needed")

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        fits = "does not fit" if error.reason == "KEY_VALUES_MISMATCH" else "cannot be used with"
        why = f"({error.reason or error})"
        raise ValueError(f"TLS: key {key} {fits} certificate {certificate} {why}") from error


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ValueError(f"TLS: {ca} holds no certificates in PEM form") from error
