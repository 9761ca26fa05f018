"""The ports that a server listens at: TCP and TLS, each with the resources that it serves."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError

from homeserver.runtime.config import Config, ConfigError
from homeserver.runtime.config_sections import ListenerConfig, ListenersConfig
from homeserver.runtime.http.site import App, Site

if TYPE_CHECKING:
    from homeserver.runtime.tls import ReloadableCertificate

BACKLOG = 1024


@define(eq=False)
class Listeners:
    """All listeners of the configuration."""

    app: App
    config: Config
    _ports: list[Any] = field(factory=list, init=False)
    _sites: list[Site] = field(factory=list, init=False)
    _certificates: list[ReloadableCertificate] = field(factory=list, init=False)

    @property
    def ports(self) -> list[int]:
        """The TCP port of each listener's first address, in the order of the configuration."""
        return [port.getHost().port for port in self._ports]

    def start(self) -> None:
        """Raises: ConfigError for a port that is taken or a certificate that can't be read; then none listens."""
        try:
            for listener in self.config.section(ListenersConfig).listeners:
                self._listen(listener)
        except ConfigError:
            self.stop_accepting()
            raise

    def stop_accepting(self) -> Deferred[Any]:
        """No new connections; fires when the ports are closed."""
        stopped = [port.stopListening() for port in self._ports]
        return DeferredList([deferred for deferred in stopped if isinstance(deferred, Deferred)])

    def drain(self) -> Deferred[Any]:
        """Close idle connections; fires when the requests in hand have been answered."""
        return DeferredList([site.drain() for site in self._sites])

    def abort(self) -> None:
        """Drop all connections that are left."""
        for site in self._sites:
            site.abort_all()

    def reload(self) -> None:
        """Take certificates and keys anew from their files; connections that stand keep the old ones.

        Raises: ConfigError.
        """
        for certificate in self._certificates:
            certificate.reload()

    def _listen(self, listener: ListenerConfig) -> None:
        trusted = tuple(ip_network(text, strict=False) for text in listener.trusted_proxies)
        site = Site(self.app, frozenset(listener.resources), trusted)
        certificate = self._certificate(listener)
        for address in listener.bind:
            try:
                port = self._open(site, certificate, address, listener.port)
            except CannotListenError as error:
                reason = getattr(error.socketError, "strerror", None) or error.socketError
                raise ConfigError(f"[[listeners]] can't listen at {address} port {listener.port}: {reason}") from None
            self._ports.append(port)
        self._sites.append(site)

    def _certificate(self, listener: ListenerConfig) -> ReloadableCertificate | None:
        if listener.tls_certificate_file is None:
            return None
        if listener.tls_private_key_file is None:
            raise ConfigError("[[listeners]] tls_private_key_file: missing, as tls_certificate_file is set")
        # Imported here: OpenSSL takes memory that a server behind a proxy does not need.
        from homeserver.runtime.tls import ReloadableCertificate

        certificate = ReloadableCertificate(
            self.config.resolve(listener.tls_certificate_file),
            self.config.resolve(listener.tls_private_key_file),
            f"[[listeners]] port {listener.port}",
        )
        self._certificates.append(certificate)
        return certificate

    def _open(self, site: Site, certificate: ReloadableCertificate | None, address: str, port: int) -> Any:
        reactor = self.app.reactor
        if certificate is None:
            return reactor.listenTCP(port, site, BACKLOG, address)
        from twisted.protocols.tls import TLSMemoryBIOFactory

        # Typed as Any: zope's interfaces and mypy don't see that these are provided.
        over_tls: Any = TLSMemoryBIOFactory
        return reactor.listenTCP(port, over_tls(certificate, False, site), BACKLOG, address)
