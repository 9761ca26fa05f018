"""Files that people of two servers show each other."""

from __future__ import annotations

import os

from tests.kit.peers import Pair
from tests.media_repo.mxc import download, thumbnail, upload
from tests.media_repo.pictures import opened, picture
from tests.scenarios.federated_rooms import both_ways


@both_ways
def test_upload_is_seen_on_the_other_side(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    content = os.urandom(300_001)
    got = download(bob, upload(alice, content, "image/png", "größe.png"))
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["Content-Type"] == "image/png"
    assert got.headers["Content-Disposition"].lower() == "inline; filename*=utf-8''gr%c3%b6%c3%9fe.png"


@both_ways
def test_thumbnail_is_seen_on_the_other_side(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    got = thumbnail(bob, upload(alice, picture(400, 200), "image/png"), 96, 96, method="crop")
    assert opened(got.content).size == (96, 96)
