"""Dehydrated devices (MSC3814)."""

from __future__ import annotations

import msgspec

from homeserver.accounts.limits import MAX_DEVICE_NAME_BYTES, check_text
from homeserver.accounts.requester import Requester
from homeserver.e2ee.dehydrated_devices import DehydratedDevices
from homeserver.e2ee.upload_bodies import parse_upload
from homeserver.matrix.ids import parse_device_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson

TAG = "End-to-end encryption"
PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


class DehydratedDeviceBody(msgspec.Struct):
    device_id: str
    device_data: JsonObject
    device_keys: JsonObject
    initial_device_display_name: str | None = None
    one_time_keys: JsonObject | None = None
    fallback_keys: JsonObject | None = None


class EventsPath(msgspec.Struct):
    device_id: str


class EventsBody(msgspec.Struct):
    next_batch: str | None = None


class DehydratedDeviceEndpoints:
    def __init__(self, devices: DehydratedDevices) -> None:
        self._devices = devices

    @endpoint("PUT", PATH, auth=Auth.USER, tag=TAG)
    async def put_device(self, requester: Requester, body: DehydratedDeviceBody) -> JsonObject:
        device_id = parse_device_id(body.device_id)
        name = body.initial_device_display_name
        if name is not None:
            check_text("initial_device_display_name", name, MAX_DEVICE_NAME_BYTES)
        keys = {
            "device_keys": body.device_keys,
            "one_time_keys": body.one_time_keys,
            "fallback_keys": body.fallback_keys,
        }
        upload = parse_upload(requester.user_id, device_id, keys)
        await self._devices.replace(requester.user_id, device_id, name, body.device_data, upload)
        return {"device_id": device_id}

    @endpoint("GET", PATH, auth=Auth.USER, tag=TAG)
    async def get_device(self, requester: Requester) -> JsonObject:
        device_id, data = await self._devices.load(requester.user_id)
        return {"device_id": device_id, "device_data": data}

    @endpoint("DELETE", PATH, auth=Auth.USER, tag=TAG)
    async def delete_device(self, requester: Requester) -> JsonObject:
        return {"device_id": await self._devices.delete(requester.user_id)}

    @endpoint("POST", f"{PATH}/{{device_id}}/events", auth=Auth.USER, tag=TAG)
    async def post_events(self, requester: Requester, path: EventsPath, body: EventsBody) -> RawJson:
        page = await self._devices.load_events(requester.user_id, parse_device_id(path.device_id), body.next_batch)
        return RawJson(
            b'{"events":[%b],"next_batch":%b}' % (b",".join(page.events), msgspec.json.encode(page.next_batch))
        )
