"""Small pages of our own, for browsers that stand in for a client."""

from __future__ import annotations

from secrets import token_urlsafe

from homeserver.runtime.http.response import Response

_STYLE = (
    "body{font:1rem sans-serif;max-width:30rem;margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1rem}"
)


def make_page(title: str, content: str, script: str = "") -> Response:
    """An HTML page that takes nothing from elsewhere, and in which no script runs but `script`.

    `title`, `content` and `script` are written as they are: what others chose is escaped before.
    """
    nonce = token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
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
