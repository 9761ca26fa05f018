"""Pages in which a browser does what a client can't: stages of user-interactive authentication.

Spec: client-server-api#fallback
"""

from __future__ import annotations

from html import escape
from secrets import token_urlsafe
from urllib.parse import parse_qs

import msgspec

from homeserver.accounts.config import RegistrationConfig
from homeserver.accounts.interactive_auth import InteractiveAuth, StageFailed
from homeserver.accounts.stages import DUMMY, REGISTRATION_TOKEN, TERMS
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
_STYLE = (
    "body{font:1rem sans-serif;max-width:30rem;margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1rem}"
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
    async def get_page(self, path: StagePath, query: SessionQuery) -> Response:
        """A page that asks for what the stage needs."""
        return self._form(path.auth_type, query.session)

    @endpoint("POST", PATH, auth=Auth.NONE, limit="login", tag=TAG, max_body_bytes=MAX_BODY_BYTES, spec=SPEC)
    async def post_page(self, path: StagePath, query: SessionQuery, body: bytes) -> Response:
        """What the page sends; then the page that tells the client."""
        form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
        given = {"token": form["token"][0]} if "token" in form else {}
        if path.auth_type not in STAGES:
            raise NotFound("No such stage")
        try:
            await self._auth.complete(query.session, path.auth_type, given)
        except StageFailed as failure:
            return self._form(path.auth_type, query.session, failure.error)
        return _page("Done", "<p>You can close this window.</p>", _DONE)

    def _form(self, stage: str, session: str, failure: str | None = None) -> Response:
        """Raises: NotFound."""
        said = f"<p role=alert>{escape(failure)}</p>" if failure is not None else ""
        action = f"?session={escape(session, quote=True)}"
        return _page("Sign up", f'{said}<form method=post action="{action}">{self._fields(stage)}</form>')

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


def _page(title: str, content: str, script: str = "") -> Response:
    """Nothing in it comes from elsewhere, and no script runs but ours."""
    nonce = token_urlsafe(16)
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'self'"
    code = f'<script nonce="{nonce}">{script}</script>' if script else ""
    page = (
        f'<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style nonce="{nonce}">{_STYLE}</style>'
        f"<h1>{title}</h1>{content}{code}</html>"
    )
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
    ]
    return Response(200, page.encode(), headers)
