"""TLS towards other servers: who they are is checked against the name that was wanted, on one shared context.

twisted's own `optionsForClientTLS` makes a context for each connection and reads all certificate authorities for it (10 ms);
here the name travels with the connection instead. Why a certificate was refused is kept in words: OpenSSL's own error only
says "certificate verify failed".
"""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]  # it has none

from homeserver.runtime.config import ConfigError

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


class CertificateRefused(Exception):
    """The peer's certificate is not one to be believed; the text says why."""


class _Handshake:
    """What one connection's handshake is about."""

    __slots__ = ("name", "protocol")

    def __init__(self, protocol: Any, name: str) -> None:
        self.protocol = protocol
        self.name = name


class OutboundTls:
    """Makes the TLS side of outgoing connections."""

    def __init__(self, *, verify: bool = True, ca_file: Path | None = None) -> None:
        """Raises: ConfigError."""
        self._verify = verify
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_alpn_protos([b"http/1.1"])
        if verify:
            self._trust(ca_file)
            self._context.set_verify(SSL.VERIFY_PEER, _note_reason)
            self._context.set_info_callback(_check_name)

    def creator(self, name: str) -> _Creator:
        """For connections to whoever can prove to be `name`, a host name or an address."""
        return _Creator(self._context, name)

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
    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(_Handshake(protocol, self._name))
        if not _is_address(self._name):  # names only, RFC 6066 section 3
            connection.set_tlsext_host_name(self._name.rstrip(".").encode("idna"))
        return connection


def _note_reason(connection: SSL.Connection, _certificate: Any, error: int, _depth: int, ok: int) -> bool:
    if not ok:
        handshake: _Handshake = connection.get_app_data()
        reason = _REASONS.get(error, f"OpenSSL refuses the certificate (error {error})")
        _fail(handshake, CertificateRefused(f"{reason} ({handshake.name})"))
    return bool(ok)


def _check_name(connection: SSL.Connection, where: int, _ret: int) -> None:
    if not where & SSL.SSL_CB_HANDSHAKE_DONE:
        return
    handshake: _Handshake = connection.get_app_data()
    try:
        check = verify_ip_address if _is_address(handshake.name) else verify_hostname
        check(connection, handshake.name.rstrip("."))
    except VerificationError:
        _fail(handshake, CertificateRefused(f"the certificate is for another name than {handshake.name}"))
    except Exception as error:  # an OpenSSL callback must not raise; service_identity's errors are many
        _fail(handshake, CertificateRefused(f"the certificate can't be read: {error}"))


def _fail(handshake: _Handshake, error: CertificateRefused) -> None:
    failure: Any = Failure
    with contextlib.suppress(AttributeError):
        handshake.protocol.failVerification(failure(error))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
