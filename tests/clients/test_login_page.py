"""The page that logs somebody in, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kit.browser import ABSENT, EXECUTABLE, open_browser

PATH = "/_matrix/static/client/login/"
LISTEN = "window.matrixLogin = {}; window.session = new Promise(done => { window.matrixLogin.onLogin = done; });"
FILL_IN = """
{
  const [form, told] = [document.querySelector('form'), document.querySelector('[role=alert]')];
  window.refusal = new Promise(done => {
    new MutationObserver(() => told.textContent && done(told.textContent)).observe(told, {childList: true});
  });
  form.user.value = 'alice';
  form.password.value = '%s';
  form.requestSubmit();
}
"""


@pytest.mark.skipif(EXECUTABLE is None, reason=ABSENT)
def test_somebody_logs_in_by_the_page(hearth: Any, tmp_path: Path) -> None:
    alice = hearth.register("alice", "her own password")
    with open_browser(tmp_path) as page:
        page.open(f"{hearth.url}{PATH}?device_id=WEBVIEW&refresh_token=true", before=LISTEN)
        page.evaluate(FILL_IN % "a wrong password")
        assert page.evaluate("window.refusal") == "Invalid username or password"
        page.evaluate(FILL_IN % "her own password")
        session = page.evaluate("window.session")
    assert session["user_id"] == alice.user_id
    assert session["device_id"] == "WEBVIEW"
    assert "refresh_token" in session
    webview = hearth.client()
    webview.token = session["access_token"]
    assert webview.get("/account/whoami")["device_id"] == "WEBVIEW"


def test_no_script_of_others_runs_in_the_page(hearth: Any) -> None:
    answer = hearth.client().send_raw("GET", PATH, query={"device_id": "<script>"})
    assert answer.status_code == 200
    assert "script-src 'nonce-" in answer.headers["Content-Security-Policy"]
    assert "<script>" not in answer.text
