"""Thumbnails over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from email.parser import BytesParser
from typing import Any

import pytest

from homeserver.runtime.clock import ManualClock
from tests.federation.visitor import Visitor
from tests.kit.federation import Answer
from tests.media_repo.mxc import MEDIA, OLD, place, thumbnail, upload
from tests.media_repo.pictures import animation, bomb, opened, picture

SERVER_THUMBNAIL = "/_matrix/federation/v1/media/thumbnail/"
FETCH = "/_matrix/federation/v1/media/download/"


@pytest.fixture
def alice(hearth: Any) -> Any:
    return hearth.register("alice")


def test_thumbnail_is_shown_inline_whatever_the_file_was_said_to_be(alice: Any) -> None:
    uri = upload(alice, picture(400, 200), "text/html", "evil.html")
    got = thumbnail(alice, uri, 50, 50)
    assert opened(got.content).size == (96, 48)
    assert got.headers["Content-Type"] == "image/jpeg"
    assert got.headers["Content-Disposition"] == 'inline; filename="thumbnail.jpeg"'
    assert got.headers["Content-Security-Policy"].startswith("sandbox")


def test_thumbnail_is_made_once(alice: Any) -> None:
    uri = upload(alice, picture(400, 200))
    with ThreadPoolExecutor(4) as several:
        others = [alice.another_device() for _ in range(4)]
        tags = [got.headers["ETag"] for got in several.map(lambda one: thumbnail(one, uri, 50, 60), others)]
    assert len({*tags, thumbnail(alice, uri, 96, 96).headers["ETag"]}) == 1
    assert thumbnail(alice, uri, 96, 96, method="crop").headers["ETag"] != tags[0]


def test_image_that_is_small_is_served_as_it_is(alice: Any) -> None:
    content = picture(30, 20, "GIF")
    got = thumbnail(alice, upload(alice, content, "text/html"), 32, 32)
    assert (got.content, got.headers["Content-Type"]) == (content, "image/gif")
    large = picture(1000, 10)
    assert thumbnail(alice, upload(alice, large), 5000, 5000).content == large


def test_animation_is_for_those_who_want_it(alice: Any) -> None:
    uri = upload(alice, animation(100, 50, 5))
    moving = thumbnail(alice, uri, 32, 32, animated=True)
    assert (opened(moving.content).n_frames, moving.headers["Content-Type"]) == (5, "image/webp")
    assert thumbnail(alice, uri, 32, 32, animated=False).headers["Content-Type"] == "image/jpeg"


def test_what_has_no_thumbnail(alice: Any) -> None:
    for content, status, errcode in (
        (b"no image", 400, "M_UNKNOWN"),
        (picture(400, 200)[:200], 400, "M_UNKNOWN"),
        (bomb(50_000, 50_000), 413, "M_TOO_LARGE"),
    ):
        uri = upload(alice, content, "image/png")
        for _ in range(2):  # the second time it is known
            got = thumbnail(alice, uri, 32, 32)
            assert (got.status_code, got.json()["errcode"]) == (status, errcode)


def test_wrong_parameters_are_named(alice: Any) -> None:
    path = f"{MEDIA}/thumbnail/{place(upload(alice, picture(40, 20)))}"
    for query, name in (
        ({"width": "a", "height": 1}, "width"),
        ({"width": 1, "height": -1}, "height"),
        ({"width": 0, "height": 1}, "width"),
        ({"width": 1, "height": 10**9}, "height"),
        ({"width": 1, "height": 1, "method": "stretch"}, "method"),
        ({"width": 1, "height": 1, "animated": "perhaps"}, "animated"),
    ):
        assert name in alice.get(path, query=query, expect="M_INVALID_PARAM")["error"]
    alice.get(path, query={"width": 1}, expect="M_MISSING_PARAM")


def test_old_endpoint_is_frozen(start_local: Any) -> None:
    clock = ManualClock(1_700_000_000_000)
    server = start_local({"media": {"unauthenticated_before_ts_ms": 1_700_000_000_001}}, clock)
    uri = upload(server.register("alice"), picture(400, 200))
    query = {"width": 32, "height": 32}
    got = server.client().send_raw("GET", f"{OLD}/thumbnail/{place(uri)}", query=query)
    assert opened(got.content).size == (32, 16)
    server.client().get(f"{OLD}/thumbnail/test.example/unknown", query=query, expect="M_NOT_FOUND")


def test_wrong_sizes_are_a_wrong_configuration(start_local: Any) -> None:
    with pytest.raises(Exception, match=r'thumbnail_sizes: found "32", allowed: a list, each such as "320x240"'):
        start_local({"media": {"thumbnail_sizes": ["32"]}})


# -- between servers -----------------------------------------------------------------------------------------------------


def test_thumbnail_of_another_servers_image(start_federated: Any) -> None:
    here, there = start_federated("here"), start_federated("there")
    uri = upload(here.register("alice"), picture(400, 200))
    assert opened(thumbnail(there.register("bob"), uri, 32, 32).content).size == (32, 16)


def test_other_server_gets_a_thumbnail(visitor: Visitor) -> None:
    media_id = place(upload(visitor.hearth.register("alice"), picture(400, 200))).split("/")[1]
    got = visitor.peer.get(visitor.hearth, f"{SERVER_THUMBNAIL}{media_id}?width=32&height=32&method=crop")
    head = f"Content-Type: {got.headers['Content-Type']}\r\n\r\n".encode()
    about, media = BytesParser().parsebytes(head + got.content).get_payload()
    assert about.get_payload() == "{}"
    assert opened(media.get_payload(decode=True)).size == (32, 32)
    assert media.get_content_type() == "image/jpeg"


def test_bomb_of_another_server_is_its_fault(visitor: Visitor) -> None:
    content = b"--x\r\n\r\n{}\r\n--x\r\nContent-Type: image/png\r\n\r\n" + bomb(50_000, 50_000) + b"\r\n--x--\r\n"
    visitor.peer.answer("GET", FETCH, Answer(content, headers={"Content-Type": "multipart/mixed; boundary=x"}))
    got = thumbnail(visitor.hearth.register("alice"), f"mxc://{visitor.name}/abc", 32, 32)
    assert (got.status_code, got.json()["errcode"]) == (502, "M_TOO_LARGE")
