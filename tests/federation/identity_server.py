"""A scripted identity server.

identity = IdentityServer.start(start_peer())
identity.bound["bob@example.org"] = "@bob:localhost"
alice.post("/rooms/{}/invite", identity.invite("bob@example.org"), at=[room_id])
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

from attrs import define, field

from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.signing import SigningKey, sign_json
from tests.kit.federation import Received, ScriptedPeer

V2 = "/_matrix/identity/v2"
VALIDITY = f"{V2}/pubkey/isvalid"


@define(eq=False)
class IdentityServer:
    peer: ScriptedPeer
    pepper: str = "matrixrocks"
    bound: dict[str, str] = field(factory=dict)
    stored: list[dict[str, Any]] = field(factory=list)
    key: SigningKey = field(factory=lambda: SigningKey("0", bytes(range(32))))
    is_revoked: bool = False

    @classmethod
    def start(cls, peer: ScriptedPeer) -> IdentityServer:
        server = cls(peer)
        peer.answer("GET", f"{V2}/hash_details", server.hash_details)
        peer.answer("POST", f"{V2}/lookup", server.lookup)
        peer.answer("POST", f"{V2}/store-invite", server.store_invite)
        peer.answer("GET", VALIDITY, server.tell_validity)
        return server

    def invite(self, address: str, **changes: Any) -> dict[str, Any]:
        """What a client says to invite somebody by e-mail address."""
        named = {"id_server": self.peer.server_name, "id_access_token": "secret", "medium": "email"}
        return {**named, "address": address, **changes}

    def sign(self, user_id: str, sender: str, token: str) -> dict[str, Any]:
        return sign_json({"mxid": user_id, "sender": sender, "token": token}, self.peer.server_name, self.key)

    def hash_details(self, _: Received) -> Any:
        return {"lookup_pepper": self.pepper, "algorithms": ["none", "sha256"]}

    def lookup(self, received: Received) -> Any:
        asked = received.json
        assert (asked["algorithm"], asked["pepper"]) == ("sha256", self.pepper)
        hashes = {self.hash(address): user_id for address, user_id in self.bound.items()}
        return {"mappings": {each: hashes[each] for each in asked["addresses"] if each in hashes}}

    def store_invite(self, received: Received) -> Any:
        self.stored.append(received.json)
        public = self.key.verify_key.to_base64()
        keys = [{"public_key": public, "key_validity_url": self.validity_url}]
        return {"token": f"token{len(self.stored)}", "public_keys": keys, "display_name": "b...@e..."}

    @property
    def validity_url(self) -> str:
        return f"https://{self.peer.server_name}{VALIDITY}"

    def tell_validity(self, received: Received) -> Any:
        is_ours = parse_qs(received.query) == {"public_key": [self.key.verify_key.to_base64()]}
        return {"valid": is_ours and not self.is_revoked}

    def hash(self, address: str) -> str:
        digest = sha256(f"{address} email {self.pepper}".encode()).digest()
        return encode_base64(digest).replace("+", "-").replace("/", "_")
