"""Transactions from other servers.

Spec: server-server-api#transactions
"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.authentication import ServerRequester
from federation.inbound.transaction import MAX_EDUS, MAX_PDUS, Transactions
from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.limits import MAX_OPAQUE_ID_LENGTH
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

# 50 events and 100 EDUs of 64 KiB, escaped generously.
MAX_TRANSACTION_BYTES = 12 * 1024 * 1024


class SendPath(msgspec.Struct, rename="camel"):
    txn_id: str


class SendEndpoint:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @endpoint(
        "PUT",
        "/_matrix/federation/v1/send/{txnId}",
        auth=Auth.SERVER,
        resource="federation",
        tag="Federation: transactions",
        spec="server-server-api#put_matrixfederationv1sendtxnid",
        max_body_bytes=MAX_TRANSACTION_BYTES,
    )
    async def send(self, requester: ServerRequester, path: SendPath, body: JsonObject) -> JsonObject:
        origin = requester.server_name
        if len(path.txn_id) > MAX_OPAQUE_ID_LENGTH or "\0" in path.txn_id:
            raise InvalidParam("txnId", f"at most {MAX_OPAQUE_ID_LENGTH} characters")
        if body.get("origin", origin) != origin:
            raise InvalidParam("origin", f"the request is signed by {origin}")
        pdus, edus = _list(body, "pdus", MAX_PDUS), _list(body, "edus", MAX_EDUS)
        return await self._transactions.receive(origin, path.txn_id, pdus, edus)


def _list(body: JsonObject, field: str, most: int) -> list[Any]:
    """An absent one is empty, as servers leave out what they have none of."""
    value = body.get(field, [])
    if not isinstance(value, list):
        raise BadJson(f"{field}: must be a list")
    if len(value) > most:
        raise InvalidParam(field, f"more than {most}")
    return value
