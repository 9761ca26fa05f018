"""Which keys somebody asks for, as requests of clients and of servers have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.e2ee.limits import (
    MAX_CLAIMS,
    MAX_QUERIED_DEVICES,
    MAX_QUERIED_USERS,
    check_count,
    check_entries,
    check_object,
    check_string,
)
from homeserver.matrix.errors import BadJson
from homeserver.matrix.ids import DeviceId, UserId, parse_device_id, parse_user_id


def parse_queried(wanted: Mapping[str, Any]) -> dict[UserId, list[DeviceId]]:
    """The device_keys of a query: user -> device ids. Raises: BadJson, InvalidParam, TooLarge."""
    check_count(len(wanted), "device_keys", MAX_QUERIED_USERS)
    check_entries(wanted, "device_keys", MAX_QUERIED_DEVICES)
    found = {}
    for user_id, devices in wanted.items():
        field = f"device_keys.{user_id}"
        if devices == {}:  # as old clients write "all of them"
            devices = []
        if not isinstance(devices, list):
            raise BadJson(f"{field}: must be a list of device IDs")
        found[parse_user_id(user_id, field)] = [DeviceId(check_string(device, field)) for device in devices]
    return found


def parse_claims(wanted: Mapping[str, Any]) -> dict[UserId, dict[DeviceId, str]]:
    """The one_time_keys of a claim: user -> device -> algorithm. Raises: InvalidParam, TooLarge."""
    check_entries(wanted, "one_time_keys", MAX_CLAIMS)
    found = {}
    for user_id, devices in wanted.items():
        field = f"one_time_keys.{user_id}"
        found[parse_user_id(user_id, field)] = {
            parse_device_id(device_id, field): check_string(algorithm, f"{field}.{device_id}")
            for device_id, algorithm in check_object(devices, field).items()
        }
    return found
