"""Transactions from other servers.

Spec: server-server-api#transactions
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from federation.authentication import ServerRequester
from federation.inbound.pieces import Decoded, Piece, decode_events, split_list, split_object
from federation.inbound.transaction import MAX_EDUS, MAX_PDUS, Transactions
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.limits import MAX_OPAQUE_ID_LENGTH
from homeserver.runtime.clock import Clock
from homeserver.runtime.http.body import JsonBytes
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

# 50 events and 100 EDUs of 64 KiB, escaped generously.
MAX_TRANSACTION_BYTES = 12 * 1024 * 1024
MAX_NAME_BYTES = 2_000  # escaped, too


class SendPath(msgspec.Struct, rename="camel"):
    txn_id: str


class SendEndpoint:
    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    @endpoint(
        "PUT",
        "/_matrix/federation/v1/send/{txnId}",
        auth=Auth.SERVER,
        resource="federation",
        tag="Federation: transactions",
        spec="server-server-api#put_matrixfederationv1sendtxnid",
        max_body_bytes=MAX_TRANSACTION_BYTES,
    )
    async def send(self, requester: ServerRequester, path: SendPath, body: JsonBytes) -> JsonObject:
        origin = requester.server_name
        if len(path.txn_id) > MAX_OPAQUE_ID_LENGTH or "\0" in path.txn_id:
            raise InvalidParam("txnId", f"at most {MAX_OPAQUE_ID_LENGTH} characters")
        content = split_object(body)
        named = bytes(content.get("origin", b""))
        if named and (len(named) > MAX_NAME_BYTES or decode_json(named) != origin):
            raise InvalidParam("origin", f"the request is signed by {origin}")
        pdus, edus = _list(content, "pdus", MAX_PDUS), _list(content, "edus", MAX_EDUS)
        events = await decode_events(pdus, self._clock)
        return await self._transactions.receive(origin, path.txn_id, events, Decoded(edus))


def _list(body: Mapping[str, Piece], field: str, most: int) -> list[Piece]:
    """An absent one is empty, as servers leave out what they have none of. Raises: NotJson, BadJson, InvalidParam."""
    pieces = split_list(body[field], field) if field in body else []
    if len(pieces) > most:
        raise InvalidParam(field, f"more than {most}")
    return pieces
