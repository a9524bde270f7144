"""Why TLS with the cloud did not come about, in words an operator can act on."""

import ssl
from collections.abc import Mapping

# What OpenSSL says of a certificate (X509_V_ERR_*).
_VERIFIED: Mapping[int, str] = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is of an unknown authority",
    19: "its certificate is of an unknown authority",
    20: "its certificate is of an unknown authority",
    21: "its certificate is of an unknown authority",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}
# What the other side says, or what came instead of TLS.
_REASONS: Mapping[str, str] = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires a certificate of this edge",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refused the handshake; it may require a certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "this edge's certificate is of an authority it does not know",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "this edge's certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept this edge's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this edge's certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no version of TLS that is accepted here",
    "UNSUPPORTED_PROTOCOL": "it speaks no version of TLS that is accepted here",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS",
}


class ClosedUnheard(ssl.SSLError):
    """The other side has closed a connection on which it never said anything but its handshake: as
    one does that does not like the certificate it was shown, or had wanted one (TLS 1.3, in which a
    client's handshake ends before the server has looked at its certificate).
    """


def tls_failure(error: BaseException | None) -> str | None:
    """What went wrong with TLS, where that is what an error came of; None for any other."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _VERIFIED.get(error.verify_code, error.verify_message)
        if isinstance(error, ClosedUnheard):
            return "it closed the connection unheard; it may require a certificate it accepts"
        if isinstance(error, ssl.SSLError):
            return _REASONS.get(error.reason or "", error.reason or str(error))
        error = error.__cause__ or error.__context__
    return None
