"""Stages of user-interactive authentication done in a browser."""

from __future__ import annotations

from typing import Any

import pytest

PATH = "/_matrix/client/v3/auth/{}/fallback/web"
TERMS = {"terms_version": "1", "terms_name": "House <rules>", "terms_url": "https://example.org/terms"}


def page(client: Any, method: str, stage: str, session: str, body: bytes | None = None) -> Any:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return client.send_raw(method, PATH.format(stage), body, query={"session": session}, headers=headers)


def test_someone_registers_by_pages(start_local: Any) -> None:
    registration = {"require_token": True, "tokens": ["open sesame"], **TERMS}
    client = start_local({"registration": registration}).client()
    body = {"username": "alice", "password": "a long enough password"}
    challenge = client.post("/register", body, expect=401)
    session = challenge["session"]
    [flow] = [flow["stages"] for flow in challenge["flows"]]
    assert {"m.login.registration_token", "m.login.terms"} <= set(flow)
    asked = page(client, "GET", "m.login.registration_token", session)
    assert asked.status_code == 200
    assert "name=token" in asked.text
    assert "script-src 'nonce-" in asked.headers["Content-Security-Policy"]
    wrong = page(client, "POST", "m.login.registration_token", session, b"token=guess")
    assert "Invalid registration token" in wrong.text
    assert "authDone" not in wrong.text
    done = page(client, "POST", "m.login.registration_token", session, b"token=open+sesame")
    assert "window.onAuthDone" in done.text
    assert "House &lt;rules&gt;" in page(client, "GET", "m.login.terms", session).text
    for stage in flow:
        if stage != "m.login.registration_token":
            assert "authDone" in page(client, "POST", stage, session, b"").text
    assert client.post("/register", {**body, "auth": {"session": session}})["user_id"] == "@alice:test.example"


@pytest.mark.parametrize("stage", ["m.login.password", "m.login.sso", "nonsense"])
def test_there_is_no_page_for_other_stages(hearth: Any, stage: str) -> None:
    client = hearth.client()
    for method in ("GET", "POST"):
        assert page(client, method, stage, "x", b"").status_code == 404


def test_a_session_must_be_there_and_is_written_as_text(hearth: Any) -> None:
    client = hearth.client()
    assert page(client, "POST", "m.login.dummy", "unknown", b"").status_code == 404
    assert client.send_raw("GET", PATH.format("m.login.dummy")).json()["errcode"] == "M_MISSING_PARAM"
    asked = page(client, "GET", "m.login.dummy", '"><script>alert(1)</script>')
    assert "<script>alert" not in asked.text
