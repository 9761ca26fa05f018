"""Where clients find what calls need: TURN servers, and transports of MatrixRTC.

Spec: client-server-api#voice-over-ip
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from homeserver.accounts.requester import Requester
from homeserver.clientapi.wellknown import livekit_transports
from homeserver.matrix.errors import NotFound
from homeserver.runtime.clock import Clock
from homeserver.runtime.config_sections import RtcConfig, TurnConfig
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Voice over IP"


class CallEndpoints:
    def __init__(self, turn: TurnConfig, rtc: RtcConfig, clock: Clock) -> None:
        self._turn = turn
        self._rtc = rtc
        self._clock = clock

    @endpoint(
        "GET",
        "/_matrix/client/v3/voip/turnServer",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3voipturnserver",
    )
    async def get_turn_server(self, requester: Requester) -> JsonObject:
        """Credentials that the TURN server can check by the secret that it shares with us."""
        if not self._turn.uris:
            raise NotFound("This server has no TURN servers")
        ttl_s = self._turn.lifetime_ms // 1000
        username = f"{self._clock.time_ms() // 1000 + ttl_s}:{requester.user_id}"
        digest = hmac.new(self._turn.shared_secret.encode(), username.encode(), hashlib.sha1).digest()
        password = base64.b64encode(digest).decode()
        return {"username": username, "password": password, "ttl": ttl_s, "uris": list(self._turn.uris)}

    @endpoint("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", auth=Auth.USER, tag=TAG)
    async def get_transports(self) -> JsonObject:
        return {"rtc_transports": livekit_transports(self._rtc.livekit_service_urls)}
