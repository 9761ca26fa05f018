"""TLS towards other servers: who they are is checked against the name that was wanted, on one shared context.

twisted's own `optionsForClientTLS` makes a context for each connection and reads all certificate authorities for it (10 ms);
here the name travels with the connection instead. Why a certificate was refused is kept in words: OpenSSL's own error only
says "certificate verify failed".
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]  # it has none

from homeserver.runtime.config import ConfigError

_failure: Any = Failure  # it has no annotations

_REASONS: Final = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate's chain ends in an unknown authority",
    20: "the certificate is not of a known authority, or the chain is incomplete",
    21: "the certificate is not of a known authority, or the chain is incomplete",
    23: "the certificate was revoked",
    26: "the certificate is not one for servers",
}


OnCertificate = Callable[[str, int], object]
"""Told of each certificate that was believed: for which name, and when it ends (ms)."""


class CertificateRefused(Exception):
    """The peer's certificate is not one to be believed; the text says why."""


class OutboundTls:
    """Makes the TLS side of outgoing connections."""

    def __init__(
        self, *, verify: bool = True, ca_file: Path | None = None, on_certificate: OnCertificate | None = None
    ) -> None:
        """Raises: ConfigError."""
        self._verify = verify
        self._on_certificate = on_certificate
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_alpn_protos([b"http/1.1"])
        if verify:
            self._trust(ca_file)

    def creator(self, name: str) -> _Creator:
        """For connections to whoever can prove to be `name`, a host name or an address."""
        return _Creator(self._context, name.rstrip("."), self._verify, self._on_certificate)

    def _trust(self, ca_file: Path | None) -> None:
        self._context.set_default_verify_paths()
        if ca_file is None:
            return
        try:
            self._context.load_verify_locations(str(ca_file))
        except SSL.Error:
            raise ConfigError(f"custom_ca_file: no certificates can be read from {ca_file}") from None


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, context: SSL.Context, name: str, verify: bool, on_certificate: OnCertificate | None) -> None:
        self._context = context
        self._name = name
        self._verify = verify
        self._on_certificate = on_certificate

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not _is_address(self._name):  # names only, RFC 6066 section 3
            connection.set_tlsext_host_name(self._name.encode("ascii", "replace"))
        if self._verify:
            connection.set_verify(SSL.VERIFY_PEER, _Check(self._name, protocol, self._on_certificate))
        return connection


class _Check:
    """OpenSSL's question, once for each certificate of the chain, the server's own last: is it good?

    Asked within the handshake, so that nothing is sent to an impostor; whatever is raised here ends the handshake, too.
    """

    def __init__(self, name: str, protocol: Any, on_certificate: OnCertificate | None) -> None:
        self._name = name
        self._on_certificate = on_certificate
        self._protocol = weakref.ref(protocol)

    def __call__(self, _connection: Any, certificate: X509, error: int, depth: int, ok: int) -> bool:
        if not ok:
            return self._refuse(_REASONS.get(error, f"OpenSSL refuses the certificate (error {error})"))
        if depth == 0 and not _is_for(certificate, self._name):
            return self._refuse(f"the certificate is for another name than {self._name}")
        if depth == 0 and self._on_certificate is not None:
            self._on_certificate(self._name, _ends_ms(certificate))
        return True

    def _refuse(self, why: str) -> bool:
        """False; and the protocol is told why, for OpenSSL would only say that verification failed."""
        protocol, failure = self._protocol(), _failure(CertificateRefused(why))
        if protocol is not None:
            protocol.failVerification(failure)
        return False


def _ends_ms(certificate: X509) -> int:
    return int(certificate.to_cryptography().not_valid_after_utc.timestamp() * 1000)


def _is_for(certificate: X509, name: str) -> bool:
    try:
        wanted = IPAddress_ID(name) if _is_address(name) else DNS_ID(name)
        verify_service_identity(extract_patterns(certificate), [wanted], [])
    except (VerificationError, CertificateError, ValueError):
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
