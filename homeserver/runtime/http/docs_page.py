"""/docs: the OpenAPI document and a page to read it with, which loads nothing from any other host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import RawJson, Response, encode_json
from homeserver.runtime.http.router import Router

_READER: Final = Path(__file__).parent / "reader"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class DocsPage:
    """Serves the document and its reader."""

    def __init__(self, router: Router, version: str) -> None:
        self._router = router
        self._version = version
        self._document: bytes | None = None

    @endpoint("GET", "/docs", auth=Auth.NONE, tag="Documentation", aliases=("/docs/",))
    def get_page(self) -> Response:
        """A page to read this document with."""
        return _file("index.html", "text/html; charset=utf-8")

    @endpoint("GET", "/docs/openapi.json", auth=Auth.NONE, tag="Documentation")
    def get_document(self) -> RawJson:
        """This document: everything that the server answers to, in OpenAPI 3.1."""
        if self._document is None:
            self._document = encode_json(self._router.openapi(self._version))
        return RawJson(self._document)

    @endpoint("GET", "/docs/reader.js", auth=Auth.NONE, tag="Documentation")
    def get_script(self) -> Response:
        """The reader's script."""
        return _file("reader.js", "text/javascript; charset=utf-8")

    @endpoint("GET", "/docs/reader.css", auth=Auth.NONE, tag="Documentation")
    def get_style(self) -> Response:
        """The reader's style sheet."""
        return _file("reader.css", "text/css; charset=utf-8")


def _file(name: str, content_type: str) -> Response:
    headers = [
        ("Content-Type", content_type),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ]
    return Response(200, (_READER / name).read_bytes(), headers)
