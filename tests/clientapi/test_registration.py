"""Spec: client-server-api#legacy-account-registration"""

from __future__ import annotations

import hmac
from hashlib import sha1
from typing import Any

import pytest

from homeserver.store import registration_tokens
from tests.accounts.harness import V3, AccountsServer, make_server, server

__all__ = ["make_server", "server"]


def test_one_request_with_the_dummy_stage_registers(server: AccountsServer) -> None:
    made = server.register("alice", initial_device_display_name="phone")
    assert made["user_id"] == "@alice:test.example"
    me = server.whoami(made["access_token"]).json
    assert me == {"user_id": "@alice:test.example", "device_id": made["device_id"], "is_guest": False}


def test_registration_is_one_row_of_the_log(server: AccountsServer) -> None:
    made = server.register("alice")
    row = server.rows[0]
    assert (len(server.rows), row.kind, row.key) == (1, "user", "@alice:test.example")
    assert row.data["device_ids"] == [made["device_id"]]


def test_without_auth_the_flows_are_told(server: AccountsServer) -> None:
    answer = server.post(f"{V3}/register", {})
    assert answer.status == 401
    assert answer.json["flows"] == [{"stages": ["m.login.dummy"]}]
    assert "errcode" not in answer.json


def test_a_session_goes_on_where_it_was(server: AccountsServer) -> None:
    session = server.post(f"{V3}/register", {}).json["session"]
    auth = {"type": "m.login.dummy", "session": session}
    answer = server.post(f"{V3}/register", {"username": "bob", "password": "pw", "auth": auth})
    assert answer.status == 200
    again = server.post(f"{V3}/register", {"username": "bob2", "password": "pw", "auth": auth})
    assert again.status == 400


def test_an_expired_session_is_unknown(server: AccountsServer) -> None:
    session = server.post(f"{V3}/register", {}).json["session"]
    server.clock.advance(31 * 60 * 1000)
    auth = {"type": "m.login.dummy", "session": session}
    assert server.post(f"{V3}/register", {"username": "bob", "password": "pw", "auth": auth}).status == 400


def test_a_session_is_good_for_its_own_operation_only(server: AccountsServer) -> None:
    alice = server.register()
    session = server.post(f"{V3}/register", {}).json["session"]
    auth = {"type": "m.login.dummy", "session": session}
    answer = server.post(f"{V3}/delete_devices", {"devices": [], "auth": auth}, alice["access_token"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


def test_capitals_become_small_letters(server: AccountsServer) -> None:
    assert server.register("ALICE")["user_id"] == "@alice:test.example"


@pytest.mark.parametrize("username", ["", "a b", "ü", "a:b", "@a", "a\u0000b", "x" * 250, "a\nb"])
def test_impossible_usernames_are_refused_before_authentication(server: AccountsServer, username: str) -> None:
    answer = server.post(f"{V3}/register", {"username": username, "password": "pw"})
    assert answer.status == 400
    assert answer.errcode in ("M_INVALID_USERNAME", "M_BAD_JSON")


@pytest.mark.parametrize("username", ["3", ".", "_", "=", "-", "/", "+", "a.b_c=d-e/f"])
def test_all_characters_of_the_grammar_are_allowed(server: AccountsServer, username: str) -> None:
    assert server.register(username)["user_id"] == f"@{username}:test.example"


def test_a_taken_name_is_refused_before_authentication(server: AccountsServer) -> None:
    server.register("alice")
    answer = server.post(f"{V3}/register", {"username": "alice", "password": "pw"})
    assert (answer.status, answer.errcode) == (400, "M_USER_IN_USE")


def test_no_name_gives_a_generated_one(server: AccountsServer) -> None:
    answer = server.post(f"{V3}/register", {"password": "pw", "auth": {"type": "m.login.dummy"}})
    assert answer.json["user_id"].startswith("@user-")


def test_inhibit_login_gives_no_device(server: AccountsServer) -> None:
    made = server.register("alice", inhibit_login=True)
    assert made == {"user_id": "@alice:test.example", "home_server": "test.example"}


def test_the_client_may_choose_the_device_id(server: AccountsServer) -> None:
    assert server.register("alice", device_id="MINE")["device_id"] == "MINE"


@pytest.mark.parametrize("password", ["", "x" * 513])
def test_impossible_passwords_are_weak(server: AccountsServer, password: str) -> None:
    answer = server.post(f"{V3}/register", {"username": "alice", "password": password})
    assert (answer.status, answer.errcode) == (400, "M_WEAK_PASSWORD")


def test_no_password_is_a_missing_parameter(server: AccountsServer) -> None:
    answer = server.post(f"{V3}/register", {"username": "alice", "auth": {"type": "m.login.dummy"}})
    assert (answer.status, answer.errcode) == (400, "M_MISSING_PARAM")


def test_disabled_registration_is_forbidden(make_server: Any) -> None:
    server = make_server(enabled=False)
    assert server.post(f"{V3}/register", {}).errcode == "M_FORBIDDEN"
    assert server.get(f"{V3}/register/available?username=alice").status == 403


def test_availability(server: AccountsServer) -> None:
    server.register("alice")
    assert server.get(f"{V3}/register/available?username=bob").json == {"available": True}
    assert server.get(f"{V3}/register/available?username=alice").errcode == "M_USER_IN_USE"
    assert server.get(f"{V3}/register/available?username=a,b").errcode == "M_INVALID_USERNAME"
    assert server.get(f"{V3}/register/available").errcode == "M_MISSING_PARAM"


def test_guests_get_an_account_of_their_own(make_server: Any) -> None:
    server = make_server(guests=True)
    guest = server.post(f"{V3}/register?kind=guest", {"username": "ignored", "device_id": "IGNORED"}).json
    assert guest["user_id"].startswith("@guest-")
    assert guest["device_id"] != "IGNORED"
    assert server.whoami(guest["access_token"]).json["is_guest"] is True
    answer = server.post(f"{V3}/delete_devices", {"devices": []}, guest["access_token"])
    assert answer.errcode == "M_GUEST_ACCESS_FORBIDDEN"


def test_a_guest_becomes_a_user_under_the_same_id(make_server: Any) -> None:
    server = make_server(guests=True)
    guest = server.post(f"{V3}/register?kind=guest", {}).json
    name = guest["user_id"][1:].partition(":")[0]
    user = server.register(name, guest_access_token=guest["access_token"])
    assert user["user_id"] == guest["user_id"]
    assert server.whoami(user["access_token"]).json["is_guest"] is False
    assert server.whoami(guest["access_token"]).status == 401
    assert server.login(name).status == 200


def test_guests_are_refused_by_default(server: AccountsServer) -> None:
    assert server.post(f"{V3}/register?kind=guest", {}).errcode == "M_FORBIDDEN"
    assert server.post(f"{V3}/register?kind=emperor", {}).errcode == "M_INVALID_PARAM"


def register_with_token(server: AccountsServer, username: str, token: str) -> Any:
    """The token, then the dummy stage."""
    body = {"username": username, "password": "pw"}
    half = server.post(f"{V3}/register", {**body, "auth": {"type": "m.login.registration_token", "token": token}})
    if half.errcode is not None:
        return half
    assert (half.status, half.json["completed"]) == (401, ["m.login.registration_token"])
    dummy = {"type": "m.login.dummy", "session": half.json["session"]}
    return server.post(f"{V3}/register", {**body, "auth": dummy})


def test_a_registration_token_lasts_for_its_uses(make_server: Any) -> None:
    server = make_server(require_token=True)
    server.wait(
        server.database.run(
            lambda conn: registration_tokens.save_registration_token(conn, "twice", uses_allowed=2, expires_ts_ms=None)
        )
    )
    validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token="
    assert server.get(f"{validity}twice").json == {"valid": True}
    assert register_with_token(server, "one", "twice").status == 200
    assert register_with_token(server, "two", "twice").status == 200
    assert server.get(f"{validity}twice").json == {"valid": False}
    refused = register_with_token(server, "three", "twice")
    assert (refused.status, refused.errcode) == (401, "M_UNAUTHORIZED")
    assert refused.json["flows"] == [{"stages": ["m.login.registration_token", "m.login.dummy"]}]


def test_configured_registration_tokens_are_always_valid(make_server: Any) -> None:
    server = make_server(require_token=True, tokens=["open-sesame"])
    assert register_with_token(server, "one", "open-sesame").status == 200
    assert register_with_token(server, "two", "open-sesame").status == 200


def test_token_and_terms_are_stages_in_order(make_server: Any) -> None:
    server = make_server(require_token=True, tokens=["t"], terms_url="https://example.org/terms", terms_version="3")
    body = {"username": "alice", "password": "pw"}
    first = server.post(f"{V3}/register", body).json
    assert first["flows"] == [{"stages": ["m.login.registration_token", "m.login.terms", "m.login.dummy"]}]
    assert first["params"]["m.login.terms"]["policies"]["terms_of_service"]["version"] == "3"
    session = first["session"]
    for early_type in ("m.login.terms", "m.login.dummy"):
        early = server.post(f"{V3}/register", {**body, "auth": {"type": early_type, "session": session}})
        assert early.status == 401
    token = {"type": "m.login.registration_token", "token": "t", "session": session}
    half = server.post(f"{V3}/register", {**body, "auth": token})
    assert (half.status, half.json["completed"]) == (401, ["m.login.registration_token"])
    agreed = server.post(f"{V3}/register", {**body, "auth": {"type": "m.login.terms", "session": session}})
    assert agreed.json["completed"] == ["m.login.registration_token", "m.login.terms"]
    done = server.post(f"{V3}/register", {**body, "auth": {"type": "m.login.dummy", "session": session}})
    assert done.status == 200


def shared_secret_body(server: AccountsServer, secret: str = "s3cret", **more: Any) -> dict[str, Any]:
    nonce = server.get("/_synapse/admin/v1/register").json["nonce"]
    mac = hmac.new(secret.encode(), b"\0".join([nonce.encode(), b"root", b"pw", b"admin"]), sha1).hexdigest()
    return {"nonce": nonce, "username": "root", "password": "pw", "admin": True, "mac": mac, **more}


def test_the_shared_secret_registers_admins(make_server: Any) -> None:
    server = make_server(enabled=False)
    body = shared_secret_body(server)
    answer = server.post("/_synapse/admin/v1/register", body)
    assert answer.status == 200
    assert server.wait(server.access.load_requester(answer.json["access_token"])).is_admin
    assert server.post("/_synapse/admin/v1/register", body).status == 400


def test_a_wrong_or_late_mac_registers_nobody(server: AccountsServer) -> None:
    assert server.post("/_synapse/admin/v1/register", shared_secret_body(server, "wrong")).status == 403
    late = shared_secret_body(server)
    server.clock.advance(61_000)
    assert server.post("/_synapse/admin/v1/register", late).status == 400
    garbage = shared_secret_body(server, nonce="zz-zz-zz")
    assert server.post("/_synapse/admin/v1/register", garbage).status == 400
