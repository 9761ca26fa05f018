"""The documents below /.well-known/matrix.

Spec: client-server-api#well-known-uris
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homeserver.accounts.config import WellKnownConfig
from homeserver.matrix.errors import NotFound
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Server administration"


class WellKnown:
    """livekit_service_urls: where clients that do not ask for transports of calls (MSC4143) find them."""

    def __init__(self, public_base_url: str, config: WellKnownConfig, livekit_service_urls: Sequence[str] = ()) -> None:
        self._client: JsonObject = {"m.homeserver": {"base_url": public_base_url.rstrip("/")}}
        if livekit_service_urls:
            # COMPAT(Element X and Element Call of 2025)
            self._client["org.matrix.msc4143.rtc_foci"] = livekit_transports(livekit_service_urls)
        self._server = {"m.server": config.server} if config.server else None
        self._support = _support(config)

    @endpoint(
        "GET",
        "/.well-known/matrix/client",
        auth=Auth.NONE,
        tag=TAG,
        spec="client-server-api#getwell-knownmatrixclient",
    )
    def get_client(self) -> JsonObject:
        return self._client

    @endpoint(
        "GET",
        "/.well-known/matrix/support",
        auth=Auth.NONE,
        tag=TAG,
        spec="client-server-api#getwell-knownmatrixsupport",
    )
    def get_support(self) -> JsonObject:
        if not self._support:
            raise NotFound("There is no support information for this server")
        return self._support

    @endpoint(
        "GET",
        "/.well-known/matrix/server",
        auth=Auth.NONE,
        tag=TAG,
        spec="server-server-api#getwell-knownmatrixserver",
    )
    def get_server(self) -> JsonObject:
        if self._server is None:
            raise NotFound("This server does not delegate")
        return self._server


def livekit_transports(urls: Sequence[str]) -> list[dict[str, str]]:
    """Spec: MSC4143"""
    return [{"type": "livekit", "livekit_service_url": url} for url in urls]


def _support(config: WellKnownConfig) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if config.support_contacts:
        document["contacts"] = [_contact(contact) for contact in config.support_contacts]
    if config.support_page:
        document["support_page"] = config.support_page
    return document


def _contact(contact: str) -> dict[str, str]:
    key = "matrix_id" if contact.startswith("@") else "email_address"
    return {"role": "m.role.admin", key: contact}
