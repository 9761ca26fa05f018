"""Uploads and downloads for tests: bytes in, requests' responses out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.kit.client import Client

UPLOAD = "/_matrix/media/v3/upload"
CREATE = "/_matrix/media/v1/create"
MEDIA = "/_matrix/client/v1/media"
OLD = "/_matrix/media/v3"


def upload(client: Client, content: bytes, content_type: str = "text/plain", name: str | None = None) -> str:
    """The mxc:// URI."""
    headers = {"Content-Type": content_type}
    uri: str = client.post(UPLOAD, content, query={"filename": name}, headers=headers)["content_uri"]
    return uri


def place(uri: str) -> str:
    """server/media ID, as paths have them."""
    return uri.removeprefix("mxc://")


def download(client: Client, uri: str, below: str = "", headers: Mapping[str, str] | None = None, **query: Any) -> Any:
    """The response, whatever it is."""
    return client.send_raw("GET", f"{MEDIA}/download/{place(uri)}{below}", query=query, headers=headers)


def thumbnail(client: Client, uri: str, width: int, height: int, **query: Any) -> Any:
    """The response, whatever it is."""
    wanted = {"width": width, "height": height, **query}
    return client.send_raw("GET", f"{MEDIA}/thumbnail/{place(uri)}", query=wanted)
