"""What a server writes to its log while clients register, log in and fail to: all of it, at the most talkative level."""

from __future__ import annotations

import json
from typing import Any

PASSWORD, BETTER, WRONG = "the-first-secret", "the-second-secret", "a-guessed-secret"
SETTINGS = {
    "log": {"level": "debug", "format": "json"},
    "registration": {"tokens": ["an-invitation-secret"]},
    "login": {"access_token_lifetime_ms": 3_600_000},
}


def _password_auth(password: str) -> dict[str, Any]:
    return {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": password}


def _use_accounts(server: Any) -> list[str]:
    """All that clients do with passwords and tokens, rightly and wrongly; the tokens."""
    alice = server.client()
    made = alice.register("alice", PASSWORD, refresh_token=True)
    renewed = alice.post("/refresh", {"refresh_token": made["refresh_token"]})
    alice.token = renewed["access_token"]
    once = alice.post("/_matrix/client/v1/login/get_token", {"auth": _password_auth(PASSWORD)})["login_token"]
    other = server.client().post("/login", {"type": "m.login.token", "token": once})
    alice.post("/login", _password_auth(WRONG), expect="M_FORBIDDEN")
    alice.post("/login", f'{{"password": "{WRONG}", '.encode(), expect="M_NOT_JSON")
    alice.post("/login", {"type": 1, "password": WRONG}, expect="M_BAD_JSON")
    alice.post("/account/password", {"new_password": BETTER, "auth": _password_auth(WRONG)}, expect=401)
    alice.post("/account/password", {"new_password": BETTER, "auth": _password_auth(PASSWORD)})
    alice.get(
        "/_matrix/client/v1/register/m.login.registration_token/validity", query={"token": "an-invitation-secret"}
    )
    nobody = server.client()
    for token in (alice.token, "an-unknown-secret"):
        nobody.send_raw("GET", "/_matrix/client/v3/account/whoami", query={"access_token": token})
        nobody.send_raw("GET", f"/_matrix/client/v3/no/such/{token}", query={"access_token": token})
    alice.send_raw("GET", "/_matrix/client/v3/rooms/%ff/state")
    return [
        made["access_token"],
        made["refresh_token"],
        alice.token,
        renewed["refresh_token"],
        once,
        other["access_token"],
    ]


def _entries(log: str) -> list[dict[str, Any]]:
    """Each line but the greeting is JSON."""
    return [json.loads(line) for line in log.splitlines() if not line.startswith("Hearth serves ")]


def test_no_token_and_no_password_is_in_the_log(start_subprocess: Any) -> None:
    server = start_subprocess(SETTINGS)
    tokens = _use_accounts(server)
    server.stop()
    log = server.log_file.read_text()
    entries = _entries(log)
    accesses = [entry for entry in entries if entry["logger"] == "homeserver.access"]
    assert len(accesses) == 15
    assert len({entry["request_id"] for entry in accesses}) == len(accesses)
    secrets = (*tokens, PASSWORD, BETTER, WRONG, "an-unknown-secret", "an-invitation-secret", "shared secret of")
    assert len(set(secrets)) == len(secrets)
    assert [secret for secret in secrets if secret in log] == []


def test_what_a_request_sets_going_is_logged_with_its_id(start_subprocess: Any) -> None:
    server = start_subprocess(SETTINGS)
    alice = server.register("alice")
    alice.create_room(invite=["@bob:nowhere.invalid"])
    alice.create_room()
    server.stop()
    entries = _entries(server.log_file.read_text())
    first, second = [entry for entry in entries if "/createRoom" in entry["message"]]
    [invited] = [entry for entry in entries if "@bob:nowhere.invalid could not be invited" in entry["message"]]
    assert invited["request_id"] == first["request_id"] != second["request_id"]
