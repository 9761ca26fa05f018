"""Uploads and downloads on one server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from homeserver.runtime.clock import ManualClock
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor
from tests.media_repo.mxc import CREATE, MEDIA, OLD, UPLOAD, download, place, upload


@pytest.fixture
def alice(hearth: Any) -> Any:
    return hearth.register("alice")


def put(client: Client, uri: str, content: bytes, **about: Any) -> Any:
    server, media_id = place(uri).split("/")
    return client.put(f"{UPLOAD}/{{}}/{{}}", content, at=[server, media_id], **about)


def test_what_was_uploaded_is_downloaded(hearth: Any, alice: Any) -> None:
    content = os.urandom(700_001)  # more than is kept in memory, and no multiple of a piece
    uri = upload(alice, content, "image/png", "cat.png")
    got = download(hearth.register("bob"), uri)
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["Content-Type"] == "image/png"
    assert got.headers["Content-Disposition"] == 'inline; filename="cat.png"'


def test_browser_is_told_not_to_run_it(hearth: Any, alice: Any) -> None:
    got = download(alice, upload(alice, b"<script>alert(1)</script>", "text/html", "a.html"))
    assert got.headers["Content-Disposition"] == 'attachment; filename="a.html"'
    assert got.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert got.headers["Cache-Control"] == "private, max-age=31536000, immutable"


def test_file_name_comes_back(alice: Any) -> None:
    got = download(alice, upload(alice, b"x", name="größe\r\nSet-Cookie: a=b"))
    assert got.headers["Content-Disposition"] == "inline; filename*=utf-8''gr%C3%B6%C3%9FeSet-Cookie%3A%20a%3Db"
    assert download(alice, upload(alice, b"x")).headers["Content-Disposition"] == "inline"


def test_name_in_the_path_wins(alice: Any) -> None:
    uri = upload(alice, b"x", name="old.txt")
    got = download(alice, uri, "/" + quote("neu ü.txt"))
    assert got.headers["Content-Disposition"] == "inline; filename*=utf-8''neu%20%C3%BC.txt"


def test_content_type_that_is_none_becomes_octet_stream(alice: Any) -> None:
    got = download(alice, upload(alice, b"x", "nonsense"))
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Content-Disposition"] == "attachment"


def test_empty_file_is_a_file(alice: Any) -> None:
    got = download(alice, upload(alice, b""))
    assert (got.status_code, got.content) == (200, b"")


def test_head_has_the_headers_only(alice: Any) -> None:
    uri = upload(alice, b"12345")
    got = alice.send_raw("HEAD", f"{MEDIA}/download/{place(uri)}")
    assert (got.status_code, got.headers["Content-Length"], got.content) == (200, "5", b"")


def test_known_etag_is_answered_without_content(alice: Any) -> None:
    uri = upload(alice, b"12345")
    etag = download(alice, uri).headers["ETag"]
    got = download(alice, uri, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (got.status_code, got.content) == (304, b"")
    assert download(alice, uri, headers={"If-None-Match": '"other"'}).status_code == 200


def test_range(alice: Any) -> None:
    uri = upload(alice, b"0123456789")
    part, beyond = (
        download(alice, uri, headers={"Range": "bytes=2-4"}),
        download(alice, uri, headers={"Range": "bytes=10-"}),
    )
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert (beyond.status_code, beyond.content, beyond.headers["Content-Range"]) == (416, b"", "bytes */10")
    assert download(alice, uri, headers={"Range": "bytes=0-1,3-4"}).content == b"0123456789"


def test_range_of_other_content_is_the_whole(alice: Any) -> None:
    headers = {"Range": "bytes=0-1", "If-Range": '"what it was"'}
    assert download(alice, upload(alice, b"0123456789"), headers=headers).status_code == 200


def test_upload_under_an_older_path(alice: Any) -> None:
    uri = alice.post("/_matrix/media/r0/upload", b"old client")["content_uri"]
    assert download(alice, uri).content == b"old client"


def test_config_tells_the_largest_upload(start_local: Any) -> None:
    alice = start_local({"media": {"max_upload_bytes": 2000}}).register("alice")
    assert alice.get(f"{MEDIA}/config") == {"m.upload.size": 2000}
    assert alice.get(f"{OLD}/config") == {"m.upload.size": 2000}


def test_upload_that_is_too_large_is_refused_and_leaves_nothing(start_local: Any, tmp_path: Path) -> None:
    alice = start_local({"media": {"max_upload_bytes": 500_000}}).register("alice")
    upload(alice, b"x" * 500_000)
    alice.post(UPLOAD, b"x" * 500_001, expect="M_TOO_LARGE")
    files = [path for path in (tmp_path / "data" / "media").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in files] == [500_000]


def test_upload_without_a_good_token_is_refused_before_its_body_is_read(hearth: Any) -> None:
    nobody = hearth.client()
    nobody.post(UPLOAD, b"x", expect="M_MISSING_TOKEN")
    nobody.token = "made up"
    nobody.post(UPLOAD, b"x", expect="M_UNKNOWN_TOKEN")
    url, headers = hearth.url + UPLOAD, {"Authorization": "Bearer made up", "Expect": "100-continue"}
    prepared = requests.Request("POST", url, headers={**headers, "Content-Length": "1000000"}).prepare()
    prepared.headers["Content-Length"] = "1000000"  # none of it is sent
    assert requests.Session().send(prepared, timeout=60).status_code == 401


def test_guests_download_and_do_not_upload(hearth: Any, alice: Any) -> None:
    uri = upload(alice, b"for all")
    guest = hearth.client()
    guest.register_guest()
    assert download(guest, uri).content == b"for all"
    guest.post(UPLOAD, b"x", expect="M_GUEST_ACCESS_FORBIDDEN")


def test_suspended_users_do_not_upload(hearth: Any, alice: Any) -> None:
    run_in_reactor(hearth.running.services.accounts.accounts.set_suspended, alice.user_id, True)
    alice.post(UPLOAD, b"x", expect="M_USER_SUSPENDED")
    alice.post(CREATE, expect="M_USER_SUSPENDED")


def test_download_needs_a_token(hearth: Any, alice: Any) -> None:
    assert download(hearth.client(), upload(alice, b"x")).status_code == 401


def test_names_that_are_none_are_refused(alice: Any) -> None:
    for server, media_id in (("test.example", "a.b"), ("test.example", "../hearth.db"), ("a b", "abc"), ("a/b", "abc")):
        refusal = alice.get(f"{MEDIA}/download/{{}}/{{}}", at=[server, media_id], expect=400)
        assert refusal["errcode"] == "M_INVALID_PARAM"


def test_unknown_media_is_not_found(alice: Any) -> None:
    alice.get(f"{MEDIA}/download/test.example/unknown", expect="M_NOT_FOUND")
    alice.get(f"{MEDIA}/download/localhost:1/unknown", expect=502)


def test_content_that_an_admin_removed_is_not_found(alice: Any, tmp_path: Path) -> None:
    uri = upload(alice, b"gone soon")
    for path in (tmp_path / "data" / "media" / "content").rglob("*"):
        if path.is_file():
            path.unlink()
    alice.get(f"{MEDIA}/download/{place(uri)}", expect="M_NOT_FOUND")


def test_uploads_are_limited(start_local: Any) -> None:
    limits = {"enabled": True, "upload": {"per_second": 0.001, "burst": 2}}
    alice = start_local({"rate_limits": limits}).register("alice")
    upload(alice, b"1")
    upload(alice, b"2")
    alice.post(UPLOAD, b"3", expect="M_LIMIT_EXCEEDED")


# -- announced first -----------------------------------------------------------------------------------------------------


def test_announced_content_comes_later(hearth: Any, alice: Any) -> None:
    made = alice.post(CREATE)
    uri = made["content_uri"]
    got = download(alice, uri, timeout_ms=0)
    assert (got.status_code, got.json()["errcode"]) == (504, "M_NOT_YET_UPLOADED")
    assert put(alice, uri, b"here it is", headers={"Content-Type": "text/csv"}) == {}
    got = download(alice, uri)
    assert (got.content, got.headers["Content-Type"]) == (b"here it is", "text/csv")


def test_who_waits_gets_content_when_it_comes(hearth: Any, alice: Any) -> None:
    uri = alice.post(CREATE)["content_uri"]
    bob = hearth.register("bob")
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(download, bob, uri, timeout_ms=60_000)
        put(alice, uri, b"at last")
        assert waiting.result().content == b"at last"


def test_content_is_given_once_and_by_its_owner(hearth: Any, alice: Any) -> None:
    uri = alice.post(CREATE)["content_uri"]
    put(hearth.register("mallory"), uri, b"mine now", expect="M_FORBIDDEN")
    put(alice, uri, b"first")
    put(alice, uri, b"second", expect="M_CANNOT_OVERWRITE_MEDIA")
    put(alice, upload(alice, b"x"), b"y", expect="M_CANNOT_OVERWRITE_MEDIA")
    put(alice, "mxc://test.example/unknown", b"x", expect="M_NOT_FOUND")
    put(alice, "mxc://other.example/unknown", b"x", expect="M_NOT_FOUND")
    assert download(alice, uri).content == b"first"


def test_announced_uploads_are_few_and_expire(start_local: Any) -> None:
    clock = ManualClock()
    settings = {"media": {"max_pending_uploads": 2, "pending_upload_lifetime_ms": 60_000}}
    alice = start_local(settings, clock).register("alice")
    first = alice.post(CREATE)
    assert first["unused_expires_at"] == clock.time_ms() + 60_000
    alice.post(CREATE)
    assert alice.post(CREATE, expect="M_LIMIT_EXCEEDED")["retry_after_ms"] == 60_000
    run_in_reactor(clock.advance, 60_001)
    put(alice, first["content_uri"], b"too late", expect="M_NOT_FOUND")
    assert download(alice, first["content_uri"]).status_code == 404
    alice.post(CREATE)


# -- the old endpoints ---------------------------------------------------------------------------------------------------


def test_nothing_is_had_without_a_token(hearth: Any, alice: Any) -> None:
    uri = upload(alice, b"x")
    hearth.client().get(f"{OLD}/download/{place(uri)}", expect="M_NOT_FOUND")


def test_what_is_older_than_the_freeze_is_had_without_a_token(start_local: Any) -> None:
    clock = ManualClock(1_700_000_000_000)
    server = start_local({"media": {"unauthenticated_before_ts_ms": 1_700_000_060_000}}, clock)
    alice, nobody = server.register("alice"), server.client()
    older = upload(alice, b"older", name="a.txt")
    run_in_reactor(clock.advance, 60_000)
    newer = upload(alice, b"newer")
    for version in ("r0", "v1", "v3"):
        got = nobody.send_raw("GET", f"/_matrix/media/{version}/download/{place(older)}")
        assert (got.content, got.headers["Cache-Control"][:6]) == (b"older", "public")
    named = nobody.send_raw("GET", f"{OLD}/download/{place(older)}/b.txt")
    assert named.headers["Content-Disposition"] == 'inline; filename="b.txt"'
    nobody.get(f"{OLD}/download/{place(newer)}", expect="M_NOT_FOUND")
    nobody.get(f"{OLD}/download/other.example/abc", expect="M_NOT_FOUND")
