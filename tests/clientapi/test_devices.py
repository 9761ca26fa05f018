"""Spec: client-server-api#device-management"""

from __future__ import annotations

from tests.accounts.harness import V3, AccountsServer, make_server, password_auth, server

__all__ = ["make_server", "server"]


def test_devices_are_listed_and_renamed(server: AccountsServer) -> None:
    alice = server.register("alice", device_id="D", initial_device_display_name="phone")
    token = alice["access_token"]
    assert server.get(f"{V3}/devices", token).json == {"devices": [{"device_id": "D", "display_name": "phone"}]}
    assert server.put(f"{V3}/devices/D", {"display_name": "tablet"}, token).json == {}
    assert server.get(f"{V3}/devices/D", token).json["display_name"] == "tablet"
    assert server.rows[-1].kind == "device"
    assert server.rows[-1].data == {"device_ids": ["D"], "deleted": False, "renamed": True, "prev": None}
    assert server.put(f"{V3}/devices/D", {}, token).json == {}
    assert server.get(f"{V3}/devices/D", token).json["display_name"] == "tablet"


def test_other_peoples_devices_do_not_exist(server: AccountsServer) -> None:
    server.register("alice", device_id="D")
    bob = server.register("bob")["access_token"]
    assert server.get(f"{V3}/devices/D", bob).errcode == "M_NOT_FOUND"
    assert server.put(f"{V3}/devices/D", {"display_name": "x"}, bob).errcode == "M_NOT_FOUND"


def test_deleting_a_device_takes_the_password_and_kills_its_token(server: AccountsServer) -> None:
    alice, other = server.register(), server.login().json
    token, path = alice["access_token"], f"{V3}/devices/{other['device_id']}"
    server.whoami(other["access_token"])
    challenge = server.delete(path, None, token)
    assert challenge.status == 401
    auth = password_auth(session=challenge.json["session"])
    assert server.delete(path, {"auth": auth}, token).status == 200
    assert server.whoami(other["access_token"]).status == 401
    assert server.get(path, token).status == 404
    assert server.delete(path, {"auth": password_auth()}, token).status == 200


def test_the_password_must_be_the_owners(server: AccountsServer) -> None:
    alice = server.register("alice")
    server.register("bob", "bobs")
    path = f"{V3}/devices/{alice['device_id']}"
    answer = server.delete(path, {"auth": password_auth("bob", "bobs")}, alice["access_token"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert server.whoami(alice["access_token"]).status == 200


def test_many_devices_are_deleted_at_once(server: AccountsServer) -> None:
    alice, one, two = server.register(), server.login().json, server.login().json
    body = {"devices": [one["device_id"], two["device_id"]], "auth": password_auth()}
    assert server.post(f"{V3}/delete_devices", body, alice["access_token"]).status == 200
    devices = server.get(f"{V3}/devices", alice["access_token"]).json["devices"]
    assert [device["device_id"] for device in devices] == [alice["device_id"]]


def test_last_seen_is_written_in_batches_and_seldom(server: AccountsServer) -> None:
    token = server.register("alice", device_id="D")["access_token"]
    server.whoami(token)
    first_ts = server.clock.time_ms()
    server.wait(server.last_seen.flush())
    assert server.get(f"{V3}/devices/D", token).json["last_seen_ts"] == first_ts
    server.clock.advance(1000)
    server.whoami(token)
    server.wait(server.last_seen.flush())
    assert server.get(f"{V3}/devices/D", token).json["last_seen_ts"] == first_ts
    server.clock.advance(5 * 60 * 1000)
    server.whoami(token)
    server.wait(server.last_seen.stop())
    assert server.get(f"{V3}/devices/D", token).json["last_seen_ts"] == first_ts + 301_000
