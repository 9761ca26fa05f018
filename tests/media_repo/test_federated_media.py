"""Media between servers: what another gets of ours, and what ours gets of another."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from email.parser import BytesParser
from threading import Event
from typing import Any

import pytest

from homeserver.runtime.clock import ManualClock
from tests.federation.visitor import Visitor
from tests.kit.federation import Answer, Received
from tests.kit.reactor import run_in_reactor
from tests.media_repo.mxc import CREATE, OLD, download, place, upload

SERVER_MEDIA = "/_matrix/federation/v1/media"
FETCH = f"{SERVER_MEDIA}/download/"


def multipart(content: bytes, head: str = "Content-Type: text/plain", boundary: str = "limit") -> Answer:
    """An answer as the specification has it."""
    body = (
        f"\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{head}\r\n\r\n".encode()
        + content
        + f"\r\n--{boundary}--\r\n\r\n".encode()
    )
    return Answer(body, headers={"Content-Type": f"multipart/mixed; boundary={boundary}"})


@pytest.fixture
def alice(visitor: Visitor) -> Any:
    return visitor.hearth.register("alice")


def uri_at(visitor: Visitor, media_id: str = "abc") -> str:
    return f"mxc://{visitor.name}/{media_id}"


# -- ours, for others ----------------------------------------------------------------------------------------------------


def test_upload_goes_from_hearth_to_hearth(start_federated: Any) -> None:
    here, there = start_federated("here"), start_federated("there")
    content = os.urandom(700_001)
    uri = upload(here.register("alice"), content, "image/png", "größe.png")
    bob = there.register("bob")
    got = download(bob, uri)
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["Content-Type"] == "image/png"
    assert got.headers["Content-Disposition"] == "inline; filename*=utf-8''gr%C3%B6%C3%9Fe.png"
    here.stop()  # the copy is enough from now on
    try:
        assert download(bob, uri).content == content
    finally:
        here.start()


def test_other_server_gets_two_parts(visitor: Visitor, alice: Any) -> None:
    uri = upload(alice, b"line\r\n--line\r\n", "text/html", "a.html")
    got = visitor.peer.get(visitor.hearth, FETCH + place(uri).split("/")[1])
    head = f"Content-Type: {got.headers['Content-Type']}\r\n\r\n".encode()
    about, media = BytesParser().parsebytes(head + got.content).get_payload()
    assert (about.get_content_type(), about.get_payload()) == ("application/json", "{}")
    assert media.get_payload(decode=True) == b"line\r\n--line\r\n"
    assert (media["Content-Type"], media["Content-Disposition"]) == ("text/html", 'attachment; filename="a.html"')


def test_other_server_is_told_what_it_can_not_have(visitor: Visitor, alice: Any) -> None:
    assert visitor.peer.get(visitor.hearth, FETCH + "unknown").status_code == 404
    assert visitor.peer.get(visitor.hearth, FETCH + "a.b").status_code == 400
    assert visitor.hearth.ask("GET", FETCH + "unknown").status_code == 401
    media_id = place(alice.post(CREATE)["content_uri"]).split("/")[1]
    got = visitor.peer.get(visitor.hearth, f"{FETCH}{media_id}?timeout_ms=0")
    assert (got.status_code, got.json()["errcode"]) == (504, "M_NOT_YET_UPLOADED")


# -- others', for us -----------------------------------------------------------------------------------------------------


def test_content_is_fetched_once(visitor: Visitor, alice: Any) -> None:
    head = "Content-Type: text/csv\r\nContent-Disposition: inline; filename*=UTF-8''%C3%BC.csv"
    visitor.peer.answer("GET", FETCH, multipart(b"1,2", head))
    for _ in range(2):
        got = download(alice, uri_at(visitor))
        assert (got.status_code, got.content) == (200, b"1,2")
        assert got.headers["Content-Type"] == "text/csv"
        assert got.headers["Content-Disposition"] == "inline; filename*=utf-8''%C3%BC.csv"
    (asked,) = visitor.peer.received(FETCH)
    assert asked.path == FETCH + "abc"
    assert asked.headers["authorization"].startswith("X-Matrix ")


def test_those_who_want_the_same_wait_for_one_fetch(visitor: Visitor, alice: Any) -> None:
    visitor.peer.answer("GET", FETCH, Answer(multipart(b"x").body, headers=multipart(b"").headers, delay_s=1))
    with ThreadPoolExecutor(4) as several:
        others = [alice.another_device() for _ in range(4)]
        answers = list(several.map(lambda one: download(one, uri_at(visitor)).content, others))
    assert answers == [b"x"] * 4
    assert len(visitor.peer.received(FETCH)) == 1


def test_server_of_before_is_asked_at_its_old_endpoint(visitor: Visitor, alice: Any) -> None:
    headers = {"Content-Type": "text/plain", "Content-Disposition": "attachment; filename=a.txt"}
    visitor.peer.answer("GET", f"{OLD}/download/", Answer(b"old", headers=headers))
    got = download(alice, uri_at(visitor))
    assert (got.content, got.headers["Content-Disposition"]) == (b"old", 'inline; filename="a.txt"')
    (asked,) = visitor.peer.received(OLD)
    assert asked.path.endswith("/abc")
    assert "allow_remote=false" in asked.query
    assert "authorization" not in asked.headers


def test_content_elsewhere_is_fetched_there(visitor: Visitor, alice: Any, start_peer: Any) -> None:
    elsewhere = start_peer()
    elsewhere.answer("GET", "/first", Answer(b"", 307, {"Location": "/second?a=b"}))
    elsewhere.answer("GET", "/second", Answer(b"over there", headers={"Content-Type": "text/csv"}))
    visitor.peer.answer("GET", FETCH, multipart(b"", f"Location: https://{elsewhere.server_name}/first"))
    got = download(alice, uri_at(visitor))
    assert (got.content, got.headers["Content-Type"]) == (b"over there", "text/csv")
    assert [each.query for each in elsewhere.requests] == ["", "a=b"]
    assert "authorization" not in elsewhere.requests[-1].headers


def test_content_without_headers_is_bytes(visitor: Visitor, alice: Any) -> None:
    visitor.peer.answer("GET", FETCH, multipart(b"x", "X: y"))
    got = download(alice, uri_at(visitor))
    assert (got.headers["Content-Type"], got.headers["Content-Disposition"]) == (
        "application/octet-stream",
        "attachment",
    )


def test_other_server_is_given_the_time_that_the_client_has(visitor: Visitor, alice: Any) -> None:
    visitor.peer.answer("GET", FETCH, {"errcode": "M_NOT_YET_UPLOADED", "error": "Not yet"}, 504)
    got = download(alice, uri_at(visitor), timeout_ms=123)
    assert (got.status_code, got.json()["errcode"]) == (504, "M_NOT_YET_UPLOADED")
    assert visitor.peer.received(FETCH)[0].query == "timeout_ms=123"


REFUSALS = {
    (404, "M_NOT_FOUND"): (404, "M_NOT_FOUND"),
    (502, "M_TOO_LARGE"): (502, "M_TOO_LARGE"),
    (413, "M_TOO_LARGE"): (502, "M_TOO_LARGE"),
    (401, "M_UNKNOWN_TOKEN"): (502, "M_UNKNOWN"),
    (403, "M_FORBIDDEN"): (502, "M_UNKNOWN"),
    (429, "M_LIMIT_EXCEEDED"): (502, "M_UNKNOWN"),
    (500, "M_UNKNOWN"): (502, "M_UNKNOWN"),
}


def test_refusal_of_another_server_is_not_taken_for_ours(visitor: Visitor, alice: Any) -> None:
    for (status, errcode), told in REFUSALS.items():
        visitor.peer.answer("GET", FETCH, {"errcode": errcode, "error": "No"}, status)
        got = download(alice, uri_at(visitor))
        assert (got.status_code, got.json()["errcode"]) == told


def test_fetches_are_limited(start_federated: Any, start_peer: Any) -> None:
    limits = {"enabled": True, "remote_media": {"per_second": 0.001, "burst": 1}}
    visitor = Visitor(start_peer(), start_federated(settings={"rate_limits": limits}))
    alice = visitor.hearth.register("alice")
    visitor.peer.answer("GET", FETCH, multipart(b"x"))
    assert [download(alice, uri_at(visitor, each)).status_code for each in ("a", "b", "a")] == [200, 429, 200]


# -- hostile -------------------------------------------------------------------------------------------------------------


def test_wrong_multipart_is_refused(visitor: Visitor, alice: Any) -> None:
    visitor.peer.answer("GET", FETCH, Answer(b"--x", headers={"Content-Type": "multipart/mixed; boundary=x"}))
    got = download(alice, uri_at(visitor))
    assert (got.status_code, got.json()["errcode"]) == (502, "M_UNKNOWN")


FORBIDDEN = [
    "http://localhost/x",
    "file:///etc/passwd",
    "https://user:secret@localhost/x",
    "https:///x",
    "/x",
    "https://localhost:99999/x",
    "https://localhost/a b",
    "https://10.0.0.1/x",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::ffff:10.0.0.1]/x",
]


def test_redirect_to_where_nobody_may_go_is_not_followed(start_federated: Any, start_peer: Any) -> None:
    settings = {"federation": {"allow_private_addresses": False, "allowed_networks": ["127.0.0.1/32", "::1/128"]}}
    visitor = Visitor(start_peer(), start_federated(settings=settings))
    alice = visitor.hearth.register("alice")
    for number, location in enumerate(FORBIDDEN):
        visitor.peer.answer("GET", FETCH, multipart(b"", f"Location: {location}"))
        got = download(alice, uri_at(visitor, str(number)))
        assert (got.status_code, got.json()["errcode"]) == (502, "M_UNKNOWN"), location


def test_redirects_end(visitor: Visitor, alice: Any) -> None:
    visitor.peer.answer("GET", "/round", Answer(b"", 302, {"Location": "/round"}))
    visitor.peer.answer("GET", FETCH, multipart(b"", f"Location: https://{visitor.name}/round"))
    assert download(alice, uri_at(visitor)).status_code == 502
    assert len(visitor.peer.received("/round")) == 3


def small(start_federated: Any, start_peer: Any, **media: Any) -> Visitor:
    return Visitor(start_peer(), start_federated(settings={"media": {"max_remote_bytes": 5000, **media}}))


def test_too_large_content_is_refused_wherever_it_is(start_federated: Any, start_peer: Any) -> None:
    visitor = small(start_federated, start_peer)
    alice = visitor.hearth.register("alice")
    visitor.peer.answer("GET", FETCH + "multipart", multipart(b"x" * 5001))
    visitor.peer.answer("GET", f"{OLD}/download/", Answer(b"x" * 5001))
    visitor.peer.answer("GET", FETCH + "elsewhere", multipart(b"", f"Location: https://{visitor.name}/large"))
    visitor.peer.answer("GET", "/large", Answer(b"x" * 5001))
    for media_id in ("multipart", "old", "elsewhere"):
        got = download(alice, uri_at(visitor, media_id))
        assert (got.status_code, got.json()["errcode"]) == (502, "M_TOO_LARGE")
    visitor.peer.answer("GET", FETCH + "fits", multipart(b"x" * 5000))
    assert len(download(alice, uri_at(visitor, "fits")).content) == 5000


def test_endless_content_is_broken_off(start_federated: Any, start_peer: Any) -> None:
    visitor = small(start_federated, start_peer)

    def pour(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n")
        while not visitor.peer.stopping.is_set():
            handler.wfile.write(b"y" * 65_536)

    visitor.peer.answer_raw("GET", FETCH, pour)
    got = download(visitor.hearth.register("alice"), uri_at(visitor))
    assert (got.status_code, got.json()["errcode"]) == (502, "M_TOO_LARGE")


def test_server_that_promises_more_than_it_sends_is_not_believed(visitor: Visitor, alice: Any) -> None:
    def write(handler: Any) -> None:
        whole = multipart(b"half").body
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % (len(whole) + 1000))
        handler.wfile.write(b"Content-Type: multipart/mixed; boundary=limit\r\n\r\n" + whole)

    visitor.peer.answer_raw("GET", FETCH, write)
    assert download(alice, uri_at(visitor)).status_code == 502
    visitor.peer.answer("GET", FETCH, multipart(b"whole"))
    assert download(alice, uri_at(visitor)).content == b"whole"


def test_server_that_never_answers_is_given_up_and_still_spoken_with(start_federated: Any, start_peer: Any) -> None:
    clock, asked = ManualClock(), Event()
    settings = {"media": {"remote_timeout_ms": 60_000}}
    visitor = Visitor(start_peer(), start_federated(settings=settings, clock=clock))

    def wait(_: Received) -> Answer:
        asked.set()
        visitor.peer.stopping.wait(120)
        return Answer()

    visitor.peer.answer("GET", FETCH, wait)
    alice = visitor.hearth.register("alice")
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(download, alice, uri_at(visitor))
        assert asked.wait(120)
        run_in_reactor(clock.advance, 60_000)
        assert waiting.result(120).status_code == 504
    visitor.peer.answer("GET", FETCH, multipart(b"now"))
    assert download(alice, uri_at(visitor)).content == b"now"


def test_nothing_is_left_of_what_failed(start_federated: Any, start_peer: Any, tmp_path: Any) -> None:
    visitor = small(start_federated, start_peer)
    visitor.peer.answer("GET", FETCH, multipart(b"x" * 5001))
    assert download(visitor.hearth.register("alice"), uri_at(visitor)).status_code == 502
    assert [path for path in (tmp_path / "hearth" / "data" / "media").rglob("*") if path.is_file()] == []
