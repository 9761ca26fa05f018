"""Receipts, and fully read markers.

Spec: client-server-api#receipts
"""

from __future__ import annotations

from typing import Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import parse_event_id, parse_room_id
from homeserver.rooms.receipts import FULLY_READ, PRIVATE, READ, Receipts
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.receipts import UNTHREADED

TAG = "Room participation"
MAX_THREAD_ID_LENGTH = 255


class RoomPath(msgspec.Struct):
    room_id: str


class ReceiptPath(msgspec.Struct):
    room_id: str
    receipt_type: str
    event_id: str


class ReceiptBody(msgspec.Struct):
    thread_id: str | None = None


class MarkersBody(msgspec.Struct):
    fully_read: str | None = msgspec.field(name="m.fully_read", default=None)
    read: str | None = msgspec.field(name="m.read", default=None)
    private: str | None = msgspec.field(name="m.read.private", default=None)


class ReceiptEndpoints:
    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
        auth=Auth.USER,
        limit="typing",
        optional_body=True,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid",
    )
    async def post_receipt(self, requester: Requester, path: ReceiptPath, body: ReceiptBody) -> JsonObject:
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        if path.receipt_type == FULLY_READ:
            if body.thread_id is not None:
                raise InvalidParam("thread_id", "m.fully_read is never of a thread")
            await self._receipts.set_fully_read(requester.user_id, room_id, event_id)
            return {}
        receipt_type = _receipt_type(path.receipt_type)
        thread_id = _thread_id(body.thread_id)
        await self._receipts.set_receipt(requester.user_id, room_id, receipt_type, event_id, thread_id)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/read_markers",
        auth=Auth.USER,
        limit="typing",
        tag=TAG,
        spec="client-server-api#post_matrixclientv3roomsroomidread_markers",
    )
    async def post_read_markers(self, requester: Requester, path: RoomPath, body: MarkersBody) -> JsonObject:
        room_id = parse_room_id(path.room_id)
        wanted = ((FULLY_READ, body.fully_read), (READ, body.read), (PRIVATE, body.private))
        markers = {type_: parse_event_id(event_id, type_) for type_, event_id in wanted if event_id is not None}
        await self._receipts.set_markers(requester.user_id, room_id, markers)
        return {}


def _receipt_type(text: str) -> Literal["m.read", "m.read.private"]:
    if text == READ:
        return "m.read"
    if text == PRIVATE:
        return "m.read.private"
    raise InvalidParam("receiptType", "must be m.read, m.read.private or m.fully_read")


def _thread_id(text: str | None) -> str:
    if text is None:
        return UNTHREADED
    if not text or "\0" in text or len(text) > MAX_THREAD_ID_LENGTH:
        raise InvalidParam("thread_id", "must be main or an event id")
    return text
