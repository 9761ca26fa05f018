"""The page that logs somebody in for a client that knows none of the login flows.

Spec: client-server-api#login-fallback
"""

from __future__ import annotations

from homeserver.clientapi.pages import make_page
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import Response

_FORM = """
<form>
<p><label>User name <input name=user autocomplete=username autocapitalize=none autofocus required></label></p>
<p><label>Password <input name=password type=password autocomplete=current-password required></label></p>
<p role=alert></p>
<button>Log in</button>
</form>
"""

_SCRIPT = """
const form = document.querySelector('form');
const told = document.querySelector('[role=alert]');
const given = new URLSearchParams(location.search);
const asked = {type: 'm.login.password'};
for (const name of ['device_id', 'initial_device_display_name']) {
  if (given.has(name)) { asked[name] = given.get(name); }
}
if (given.get('refresh_token') === 'true') { asked.refresh_token = true; }

async function logIn() {
  const identifier = {type: 'm.id.user', user: form.user.value};
  const body = JSON.stringify({...asked, identifier, password: form.password.value});
  const answer = await fetch('/_matrix/client/v3/login', {method: 'POST', body});
  const session = await answer.json();
  if (!answer.ok) { throw new Error(session.error); }
  form.replaceWith('You are logged in. You can close this window.');
  if (window.matrixLogin && window.matrixLogin.onLogin) { window.matrixLogin.onLogin(session); }
}

form.addEventListener('submit', event => {
  event.preventDefault();
  told.textContent = '';
  logIn().catch(failure => { told.textContent = failure.message; });
});
"""


class LoginPage:
    @endpoint(
        "GET",
        "/_matrix/static/client/login/",
        auth=Auth.NONE,
        tag="Session management",
        aliases=("/_matrix/static/client/login",),
        spec="client-server-api#login-fallback",
    )
    def get_page(self) -> Response:
        """Logs in by password, and hands the session to `window.matrixLogin.onLogin`.

        Of the query, `device_id`, `initial_device_display_name` and `refresh_token` go on to POST /login.
        """
        return make_page("Log in", _FORM, _SCRIPT)
