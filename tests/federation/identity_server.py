"""A scripted identity server.

identity = IdentityServer.start(start_peer())
identity.bound["bob@example.org"] = "@bob:localhost"
alice.post("/rooms/{}/invite", identity.invite("bob@example.org"), at=[room_id])
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from attrs import define, field

from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.signing import SigningKey, sign_json
from tests.kit.federation import Received, ScriptedPeer

V2 = "/_matrix/identity/v2"


@define(eq=False)
class IdentityServer:
    peer: ScriptedPeer
    pepper: str = "matrixrocks"
    bound: dict[str, str] = field(factory=dict)
    stored: list[dict[str, Any]] = field(factory=list)
    key: SigningKey = field(factory=lambda: SigningKey("0", bytes(range(32))))

    @classmethod
    def start(cls, peer: ScriptedPeer) -> IdentityServer:
        server = cls(peer)
        peer.answer("GET", f"{V2}/hash_details", server.hash_details)
        peer.answer("POST", f"{V2}/lookup", server.lookup)
        peer.answer("POST", f"{V2}/store-invite", server.store_invite)
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
        url = f"https://{self.peer.server_name}{V2}/pubkey/isvalid"
        keys = [{"public_key": public, "key_validity_url": url}]
        return {"token": f"token{len(self.stored)}", "public_keys": keys, "display_name": "b...@e..."}

    def hash(self, address: str) -> str:
        digest = sha256(f"{address} email {self.pepper}".encode()).digest()
        return encode_base64(digest).replace("+", "-").replace("/", "_")
