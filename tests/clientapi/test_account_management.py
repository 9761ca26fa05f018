"""Spec: client-server-api#legacy-account-management"""

from __future__ import annotations

import pytest

from homeserver.store.accounts import load_departing_users, save_deactivation
from tests.accounts.harness import V3, AccountsServer, make_server, password_auth, server

__all__ = ["make_server", "server"]


def test_changing_the_password_logs_the_others_out(server: AccountsServer) -> None:
    alice, other = server.register(), server.login().json
    assert server.whoami(other["access_token"]).status == 200
    body = {"new_password": "looking-glass", "auth": password_auth()}
    assert server.post(f"{V3}/account/password", body, alice["access_token"]).status == 200
    assert server.whoami(alice["access_token"]).status == 200
    assert server.whoami(other["access_token"]).status == 401
    assert server.login().status == 403
    assert server.login(password="looking-glass").status == 200


def test_others_stay_logged_in_if_asked(server: AccountsServer) -> None:
    alice, other = server.register(), server.login().json
    body = {"new_password": "looking-glass", "logout_devices": False, "auth": password_auth()}
    server.post(f"{V3}/account/password", body, alice["access_token"])
    assert server.whoami(other["access_token"]).status == 200


def test_a_wrong_password_changes_nothing(server: AccountsServer) -> None:
    alice = server.register()
    body = {"new_password": "looking-glass", "auth": password_auth(password="no")}
    answer = server.post(f"{V3}/account/password", body, alice["access_token"])
    assert (answer.status, answer.errcode) == (401, "M_FORBIDDEN")
    assert answer.json["flows"] == [{"stages": ["m.login.password"]}]
    assert server.login().status == 200


def test_without_a_token_the_password_says_who(server: AccountsServer) -> None:
    server.register()
    body = {"new_password": "looking-glass", "auth": password_auth()}
    assert server.post(f"{V3}/account/password", body).status == 200
    assert server.login(password="looking-glass").status == 200


def test_a_weak_new_password_is_refused_first(server: AccountsServer) -> None:
    alice = server.register()
    answer = server.post(f"{V3}/account/password", {"new_password": ""}, alice["access_token"])
    assert (answer.status, answer.errcode) == (400, "M_WEAK_PASSWORD")


def test_deactivation_ends_the_account_and_keeps_the_name(server: AccountsServer) -> None:
    alice = server.register()
    server.whoami(alice["access_token"])
    path = f"{V3}/account/deactivate"
    assert server.post(path, {}, alice["access_token"]).status == 401
    assert server.post(path, {"auth": password_auth()}, alice["access_token"]).status == 200
    assert server.whoami(alice["access_token"]).status == 401
    assert server.login().errcode == "M_FORBIDDEN"
    assert server.post(f"{V3}/register", {"username": "alice"}).errcode == "M_USER_IN_USE"
    assert server.rooms.left == ["@alice:test.example"]
    assert server.rows[-1].data["erased"] is False
    assert server.get(f"{V3}/profile/@alice:test.example").json == {"displayname": "alice"}


def test_erasure_removes_personal_data(server: AccountsServer) -> None:
    alice = server.register()
    data_path = f"{V3}/user/@alice:test.example/account_data/m.x"
    server.put(data_path, {"secret": 1}, alice["access_token"])
    body = {"auth": password_auth(), "erase": True}
    assert server.post(f"{V3}/account/deactivate", body, alice["access_token"]).status == 200
    assert server.get(f"{V3}/profile/@alice:test.example").errcode == "M_NOT_FOUND"
    assert server.wait(server.accounts.load_user(alice["user_id"])).is_erased


def test_a_departure_cut_short_is_resumed(server: AccountsServer) -> None:
    alice = server.register()
    server.wait(server.database.run(lambda conn: save_deactivation(conn, alice["user_id"], erase=False)))
    server.wait(server.accounts.resume_departures())
    assert server.rooms.left == ["@alice:test.example"]
    assert server.wait(server.database.read(load_departing_users)) == []


def test_there_is_no_contact_information(server: AccountsServer) -> None:
    token = server.register()["access_token"]
    assert server.get(f"{V3}/account/3pid", token).json == {"threepids": []}
    assert server.post(f"{V3}/account/3pid", {}, token).errcode == "M_THREEPID_AUTH_FAILED"
    assert server.post(f"{V3}/account/3pid/add", {}, token).errcode == "M_FORBIDDEN"
    gone = server.post(f"{V3}/account/3pid/delete", {"medium": "email", "address": "a@b"}, token)
    assert gone.json == {"id_server_unbind_result": "no-support"}


@pytest.mark.parametrize("place", ["register", "account/password", "account/3pid"])
def test_codes_are_not_sent(server: AccountsServer, place: str) -> None:
    for medium in ("email", "msisdn"):
        answer = server.post(f"{V3}/{place}/{medium}/requestToken", {})
        assert (answer.status, answer.errcode) == (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")


def test_admins_lock_and_suspend(server: AccountsServer) -> None:
    alice, bob = server.register("alice"), server.register("bob")
    server.wait(server.accounts.set_admin(alice["user_id"], True))
    lock, suspend = (f"/_matrix/client/v1/admin/{what}/@bob:test.example" for what in ("lock", "suspend"))
    assert server.put(suspend, {"suspended": True}, alice["access_token"]).json == {"suspended": True}
    assert server.get(suspend, alice["access_token"]).json == {"suspended": True}
    name = server.put(f"{V3}/profile/@bob:test.example/displayname", {"displayname": "B"}, bob["access_token"])
    assert (name.status, name.errcode) == (403, "M_USER_SUSPENDED")
    assert server.get(lock, bob["access_token"]).errcode == "M_FORBIDDEN"
    assert server.put(lock, {"locked": True}, alice["access_token"]).json == {"locked": True}
    assert server.whoami(bob["access_token"]).errcode == "M_USER_LOCKED"
    me = "/_matrix/client/v1/admin/lock/@alice:test.example"
    assert server.put(me, {"locked": True}, alice["access_token"]).status == 403
