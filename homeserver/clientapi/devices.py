"""Device management.

Spec: client-server-api#device-management
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.devices import Devices
from homeserver.accounts.interactive_auth import InteractiveAuth, Operation
from homeserver.accounts.requester import Requester
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.stages import PASSWORD
from homeserver.clientapi.login import AuthBody
from homeserver.matrix.ids import parse_device_id
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.devices import DeviceRow

TAG = "Device management"
DEVICE_PATH = "/_matrix/client/v3/devices/{device_id}"
DELETE_PATH = "/_matrix/client/v3/delete_devices"


class DevicePath(msgspec.Struct):
    device_id: str


class DeviceBody(msgspec.Struct):
    display_name: str | None = None


class DeleteDevicesBody(msgspec.Struct):
    devices: list[str]
    auth: JsonObject | None = None


class DeviceEndpoints:
    def __init__(self, devices: Devices, sessions: Sessions, auth: InteractiveAuth) -> None:
        self._devices = devices
        self._sessions = sessions
        self._auth = auth

    @endpoint(
        "GET",
        "/_matrix/client/v3/devices",
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3devices",
    )
    async def get_devices(self, requester: Requester) -> JsonObject:
        devices = await self._devices.load_devices(requester.user_id)
        return {"devices": [_answer(device) for device in devices]}

    @endpoint(
        "GET",
        DEVICE_PATH,
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3devicesdeviceid",
    )
    async def get_device(self, requester: Requester, path: DevicePath) -> JsonObject:
        return _answer(await self._devices.load_device(requester.user_id, path.device_id))

    @endpoint(
        "PUT",
        DEVICE_PATH,
        auth=Auth.GUEST_OK,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3devicesdeviceid",
    )
    async def put_device(self, requester: Requester, path: DevicePath, body: DeviceBody) -> JsonObject:
        await self._devices.rename_device(requester.user_id, path.device_id, body.display_name)
        return {}

    @endpoint(
        "DELETE",
        DEVICE_PATH,
        auth=Auth.USER,
        optional_body=True,
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3devicesdeviceid",
    )
    async def delete_device(self, requester: Requester, path: DevicePath, body: AuthBody) -> JsonObject:
        device_id = parse_device_id(path.device_id)
        operation = Operation("DELETE", f"/devices/{device_id}", requester.user_id)
        await self._auth.check(operation, [(PASSWORD,)], body.auth)
        await self._sessions.delete_devices(requester.user_id, [device_id])
        return {}

    @endpoint(
        "POST",
        DELETE_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3delete_devices",
    )
    async def post_delete_devices(self, requester: Requester, body: DeleteDevicesBody) -> JsonObject:
        device_ids = [parse_device_id(device_id, "devices") for device_id in body.devices]
        operation = Operation("POST", DELETE_PATH, requester.user_id)
        await self._auth.check(operation, [(PASSWORD,)], body.auth)
        await self._sessions.delete_devices(requester.user_id, device_ids)
        return {}


def _answer(device: DeviceRow) -> JsonObject:
    fields = {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ts_ms,
    }
    return {name: value for name, value in fields.items() if value is not None}
