"""Messages to devices.

Spec: client-server-api#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.clientapi.keys import device_of
from homeserver.e2ee.limits import MAX_RECIPIENTS, check_entries, check_object, check_string
from homeserver.e2ee.to_device import ToDevice
from homeserver.matrix.ids import UserId, parse_user_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class SendPath(msgspec.Struct):
    event_type: str
    txn_id: str


class SendBody(msgspec.Struct):
    messages: JsonObject


class ToDeviceEndpoints:
    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    @endpoint(
        "PUT",
        "/_matrix/client/v3/sendToDevice/{event_type}/{txn_id}",
        auth=Auth.USER,
        tag="Send-to-device messaging",
        max_body_bytes=16 * 1024 * 1024,
        spec="client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid",
    )
    async def put_send(self, requester: Requester, path: SendPath, body: SendBody) -> JsonObject:
        messages = parse_messages(body.messages)
        type_ = check_string(path.event_type, "eventType")
        txn_id = check_string(path.txn_id, "txnId")
        await self._to_device.send(requester.user_id, device_of(requester), txn_id, type_, messages)
        return {}


def parse_messages(messages: Mapping[str, Any]) -> dict[UserId, dict[str, dict[str, Any]]]:
    """User -> device (or "*") -> content. Raises: InvalidParam, TooLarge."""
    check_entries(messages, "messages", MAX_RECIPIENTS)
    found = {}
    for user_id, devices in messages.items():
        field = f"messages.{user_id}"
        found[parse_user_id(user_id, field)] = {
            check_string(device_id, field): check_object(content, f"{field}.{device_id}")
            for device_id, content in check_object(devices, field).items()
        }
    return found
