"""TLS of a listener: modern protocols and ciphers, and a certificate that changes without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair, PrivateCertificate, TLSVersion
from zope.interface import implementer  # type: ignore[import-untyped]  # it has none

from homeserver.runtime.config import ConfigError

_BEGIN = b"-----BEGIN CERTIFICATE-----"


@implementer(IOpenSSLServerConnectionCreator)
class ReloadableCertificate:
    """Makes the TLS side of each accepted connection, with the certificate last read."""

    def __init__(self, certificate_file: Path, private_key_file: Path, where: str) -> None:
        self._certificate_file = certificate_file
        self._private_key_file = private_key_file
        self._where = where
        self._context: Any = None
        self.reload()

    def reload(self) -> None:
        """Reads the files again.

        Raises: ConfigError; the old certificate stays.
        """
        chain = _read(self._certificate_file, f"{self._where} tls_certificate_file")
        key = _read(self._private_key_file, f"{self._where} tls_private_key_file")
        try:
            self._context = _build_context(chain, key)
        except Exception as error:  # OpenSSL, cryptography and twisted have each their own
            files = f"{self._certificate_file} and {self._private_key_file}"
            raise ConfigError(f"{self._where}: no usable certificate and key in {files}: {_text_of(error)}") from None

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


def _build_context(chain: bytes, key: bytes) -> Any:
    certificates = [_BEGIN + part for part in chain.split(_BEGIN)[1:]]
    if not certificates:
        raise ValueError("no certificate")
    pair: Any = PrivateCertificate.fromCertificateAndKeyPair
    private = pair(Certificate.loadPEM(certificates[0]), KeyPair.load(key, crypto.FILETYPE_PEM))
    options: Any = CertificateOptions
    context: Any = options(
        privateKey=private.privateKey.original,
        certificate=private.original,
        extraCertChain=[Certificate.loadPEM(part).original for part in certificates[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableProtocols=[b"http/1.1"],
    ).getContext()
    context.check_privatekey()
    return context


def _text_of(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {path}: {error.strerror}") from None
