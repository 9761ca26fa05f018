"""Pages in which a browser does what a client can't: stages of user-interactive authentication.

Spec: client-server-api#fallback
"""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

import msgspec

from homeserver.accounts.config import RegistrationConfig
from homeserver.accounts.interactive_auth import InteractiveAuth, StageFailed
from homeserver.accounts.stages import DUMMY, REGISTRATION_TOKEN, TERMS
from homeserver.clientapi.pages import make_page
from homeserver.matrix.errors import NotFound
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import Response

PATH = "/_matrix/client/v3/auth/{auth_type}/fallback/web"
TAG = "Session management"
SPEC = "client-server-api#fallback"
MAX_BODY_BYTES = 16 * 1024
STAGES = (DUMMY, REGISTRATION_TOKEN, TERMS)

_DONE = (
    "if (window.onAuthDone) { window.onAuthDone(); }"
    " else if (window.opener && window.opener.postMessage) { window.opener.postMessage('authDone', '*'); }"
)


class StagePath(msgspec.Struct):
    auth_type: str


class SessionQuery(msgspec.Struct):
    session: str


class AuthFallback:
    def __init__(self, auth: InteractiveAuth, config: RegistrationConfig) -> None:
        self._auth = auth
        self._config = config

    @endpoint("GET", PATH, auth=Auth.NONE, tag=TAG, spec=SPEC)
    async def getmake_page(self, path: StagePath, query: SessionQuery) -> Response:
        """A page that asks for what the stage needs."""
        return self._form(path.auth_type, query.session)

    @endpoint("POST", PATH, auth=Auth.NONE, limit="login", tag=TAG, max_body_bytes=MAX_BODY_BYTES, spec=SPEC)
    async def postmake_page(self, path: StagePath, query: SessionQuery, body: bytes) -> Response:
        """What the page sends; then the page that tells the client."""
        form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
        given = {"token": form["token"][0]} if "token" in form else {}
        if path.auth_type not in STAGES:
            raise NotFound("No such stage")
        try:
            await self._auth.complete(query.session, path.auth_type, given)
        except StageFailed as failure:
            return self._form(path.auth_type, query.session, failure.error)
        return make_page("Done", "<p>You can close this window.</p>", _DONE)

    def _form(self, stage: str, session: str, failure: str | None = None) -> Response:
        """Raises: NotFound."""
        said = f"<p role=alert>{escape(failure)}</p>" if failure is not None else ""
        action = f"?session={escape(session, quote=True)}"
        return make_page("Sign up", f'{said}<form method=post action="{action}">{self._fields(stage)}</form>')

    def _fields(self, stage: str) -> str:
        if stage == DUMMY:
            return "<p>One more step.</p><button>Go on</button>"
        if stage == REGISTRATION_TOKEN:
            return (
                "<p><label>Registration token <input name=token autofocus required></label></p><button>Go on</button>"
            )
        if stage == TERMS:
            name, url = escape(self._config.terms_name), escape(self._config.terms_url, quote=True)
            return f'<p><a href="{url}" target=_blank rel=noopener>{name}</a></p><button>I agree</button>'
        raise NotFound("No such stage")
