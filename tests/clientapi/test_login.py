"""Spec: client-server-api#legacy-login"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.accounts.passwords import PasswordHashes
from tests.accounts.harness import V3, AccountsServer, Answer, make_server, password_auth, server

__all__ = ["make_server", "server"]


def refresh(server: AccountsServer, token: str) -> Answer:
    return server.post(f"{V3}/refresh", {"refresh_token": token})


def test_flows_are_listed(server: AccountsServer) -> None:
    flows = server.get(f"{V3}/login").json["flows"]
    assert {"type": "m.login.password"} in flows
    assert {"type": "m.login.token", "get_login_token": True} in flows


@pytest.mark.parametrize("username", ["alice", "@alice:test.example", "ALICE", "@Alice:test.example"])
def test_a_user_logs_in_by_name_or_id(server: AccountsServer, username: str) -> None:
    server.register()
    answer = server.login(username)
    assert answer.json["user_id"] == "@alice:test.example"
    assert server.whoami(answer.json["access_token"]).status == 200


def test_wrong_password_and_unknown_user_look_the_same(server: AccountsServer) -> None:
    server.register()
    wrong, unknown = server.login(password="no"), server.login("nobody")
    elsewhere = server.login("@alice:other.example")
    assert (wrong.status, wrong.errcode) == (403, "M_FORBIDDEN")
    assert (unknown.status, unknown.json) == (wrong.status, wrong.json)
    assert (elsewhere.status, elsewhere.json) == (wrong.status, wrong.json)


def test_guessing_is_limited_by_user(server: AccountsServer) -> None:
    server.register()
    answers = [server.login(password="no").status for _ in range(11)]
    assert answers == [403] * 10 + [429]
    server.clock.advance(10_000)
    assert server.login().status == 200


def test_right_passwords_are_not_limited(server: AccountsServer) -> None:
    server.register()
    assert {server.login().status for _ in range(15)} == {200}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"type": "m.login.magic"}, "M_UNKNOWN"),
        ({"type": 3}, "M_BAD_JSON"),
        ({"type": "m.login.password"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x"}, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.x"}}, "M_UNKNOWN"),
        (
            {"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.user"}},
            "M_MISSING_PARAM",
        ),
        ({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.phone"}}, "M_FORBIDDEN"),
        ({"type": "m.login.password", "password": "x", "user": "nobody"}, "M_FORBIDDEN"),
        ({"type": "m.login.token"}, "M_MISSING_PARAM"),
        ({"type": "m.login.token", "token": "hrl_x_y"}, "M_FORBIDDEN"),
    ],
)
def test_bad_bodies(server: AccountsServer, body: Any, errcode: str) -> None:
    assert server.post(f"{V3}/login", body).errcode == errcode


def test_a_device_id_is_reused_and_its_old_token_dies(server: AccountsServer) -> None:
    first = server.register("alice", device_id="D1", initial_device_display_name="phone")
    assert server.whoami(first["access_token"]).status == 200
    second = server.login(device_id="D1", initial_device_display_name="other").json
    assert second["device_id"] == "D1"
    dead = server.whoami(first["access_token"])
    assert (dead.status, dead.errcode, dead.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", False)
    devices = server.get(f"{V3}/devices", second["access_token"]).json["devices"]
    assert [(device["device_id"], device["display_name"]) for device in devices] == [("D1", "phone")]


def test_logout_ends_the_device(server: AccountsServer) -> None:
    alice = server.register()
    other = server.login().json
    assert server.post(f"{V3}/logout", {}, alice["access_token"]).json == {}
    assert server.whoami(alice["access_token"]).errcode == "M_UNKNOWN_TOKEN"
    devices = server.get(f"{V3}/devices", other["access_token"]).json["devices"]
    assert [device["device_id"] for device in devices] == [other["device_id"]]


def test_logout_all_ends_all_devices(server: AccountsServer) -> None:
    alice, other = server.register(), server.login().json
    server.whoami(other["access_token"])
    server.post(f"{V3}/logout/all", {}, alice["access_token"])
    assert server.whoami(alice["access_token"]).status == 401
    assert server.whoami(other["access_token"]).status == 401
    row = server.rows[-1]
    assert row.data == {"device_ids": sorted([alice["device_id"], other["device_id"]]), "deleted": True, "prev": None}


def test_tokens_are_taken_from_the_query_too(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    assert server.get(f"{V3}/account/whoami?access_token={token}").status == 200
    assert server.get(f"{V3}/account/whoami").errcode == "M_MISSING_TOKEN"


def test_a_login_token_logs_in_once(server: AccountsServer) -> None:
    alice = server.register()
    path = "/_matrix/client/v1/login/get_token"
    assert server.post(path, {}, alice["access_token"]).json["flows"] == [{"stages": ["m.login.password"]}]
    made = server.post(path, {"auth": password_auth()}, alice["access_token"]).json
    assert made["expires_in_ms"] == 120_000
    body = {"type": "m.login.token", "token": made["login_token"]}
    assert server.post(f"{V3}/login", body).json["user_id"] == "@alice:test.example"
    assert server.post(f"{V3}/login", body).errcode == "M_FORBIDDEN"


def test_a_login_token_expires(server: AccountsServer) -> None:
    alice = server.register()
    path = "/_matrix/client/v1/login/get_token"
    made = server.post(path, {"auth": password_auth()}, alice["access_token"]).json
    server.clock.advance(120_000)
    answer = server.post(f"{V3}/login", {"type": "m.login.token", "token": made["login_token"]})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_expired_tokens_are_soft_logged_out_and_can_be_refreshed(server: AccountsServer) -> None:
    alice = server.register("alice", refresh_token=True)
    assert alice["expires_in_ms"] == 3_600_000
    assert server.whoami(alice["access_token"]).status == 200
    server.clock.advance(3_600_000)
    expired = server.whoami(alice["access_token"])
    assert (expired.status, expired.errcode, expired.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)
    renewed = refresh(server, alice["refresh_token"]).json
    assert server.whoami(renewed["access_token"]).json["device_id"] == alice["device_id"]


def test_the_old_pair_lives_until_the_new_access_token_is_used(server: AccountsServer) -> None:
    alice = server.register("alice", refresh_token=True)
    lost = refresh(server, alice["refresh_token"]).json
    got = refresh(server, alice["refresh_token"]).json
    assert server.whoami(alice["access_token"]).status == 200
    assert server.whoami(lost["access_token"]).status == 401
    assert server.whoami(got["access_token"]).status == 200
    assert refresh(server, alice["refresh_token"]).errcode == "M_UNKNOWN_TOKEN"
    assert server.whoami(alice["access_token"]).status == 401
    assert refresh(server, got["refresh_token"]).status == 200


def test_the_old_pair_dies_when_the_new_refresh_token_is_used(server: AccountsServer) -> None:
    alice = server.register("alice", refresh_token=True)
    second = refresh(server, alice["refresh_token"]).json
    third = refresh(server, second["refresh_token"]).json
    assert refresh(server, alice["refresh_token"]).status == 401
    assert server.whoami(alice["access_token"]).status == 401
    assert server.whoami(third["access_token"]).status == 200
    assert server.whoami(second["access_token"]).status == 401


def test_refresh_tokens_expire_softly(make_server: Any) -> None:
    server = make_server(login={"refresh_token_lifetime_ms": 1000})
    alice = server.register("alice", refresh_token=True)
    server.clock.advance(1000)
    answer = refresh(server, alice["refresh_token"])
    assert (answer.status, answer.json["soft_logout"]) == (401, True)


def test_logout_kills_refresh_tokens(server: AccountsServer) -> None:
    alice = server.register("alice", refresh_token=True)
    server.post(f"{V3}/logout", {}, alice["access_token"])
    assert refresh(server, alice["refresh_token"]).status == 401


def test_locked_users_may_only_log_out(server: AccountsServer) -> None:
    alice = server.register()
    assert server.whoami(alice["access_token"]).status == 200
    server.wait(server.accounts.set_locked(alice["user_id"], True))
    locked = server.whoami(alice["access_token"])
    assert (locked.status, locked.errcode, locked.json["soft_logout"]) == (401, "M_USER_LOCKED", True)
    assert server.login().errcode == "M_USER_LOCKED"
    server.wait(server.accounts.set_locked(alice["user_id"], False))
    assert server.whoami(alice["access_token"]).status == 200
    server.wait(server.accounts.set_locked(alice["user_id"], True))
    assert server.post(f"{V3}/logout", {}, alice["access_token"]).status == 200


def test_a_changed_cost_renews_the_hash_at_login(server: AccountsServer) -> None:
    alice = server.register()
    before = server.wait(server.accounts.load_user(alice["user_id"])).password_hash
    server.passwords.hashes = PasswordHashes(server.pump, "production")  # type: ignore[arg-type]  # it only calls back
    server.passwords.hashes.start()
    assert server.login().status == 200
    server.passwords.hashes.stop()
    after = server.wait(server.accounts.load_user(alice["user_id"])).password_hash
    assert before != after and "m=19456" in after
    server.passwords.hashes = server.hashes
    assert server.login().status == 200
