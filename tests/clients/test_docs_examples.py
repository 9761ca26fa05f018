"""The examples in docs/clients, as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clients.test_nio_encrypted import ENCRYPTED, Phone

DOCS = Path(__file__).resolve().parents[2] / "docs/clients"
PASSWORD = "password of the tests"
TIMEOUT_S = 120
# What the example in JavaScript prints is looked at here.
LISTEN = """
console.log = (roomId, sender, content) => {
  if (content.body !== "hello") return;
  process.stdout.write(`${roomId} ${sender}`);
  process.exit(0);
};
"""


def _examples(page: str, beginning: str) -> list[str]:
    """The indented blocks that begin so."""
    blocks = re.findall(r"(?:^    [^\n]*\n|^\n(?=    ))+", (DOCS / page).read_text(), flags=re.MULTILINE)
    found = [re.sub(r"^    ", "", block.strip("\n"), flags=re.MULTILINE) for block in blocks]
    return [example for example in found if example.startswith(beginning)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is absent")
def test_somebody_logs_in_and_sends_with_curl(hearth: Any) -> None:
    alice = hearth.register("alice")
    room = alice.create_room()
    log_in, send = _examples("index.md", "curl")

    def run(command: str, **names: str) -> Any:
        environment = {**os.environ, "BASE": hearth.url, **names}
        done = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        return json.loads(done.stdout)

    session = run(log_in.replace("…", PASSWORD))
    assert session["user_id"] == alice.user_id
    assert {"device_id", "refresh_token", "expires_in_ms"} <= session.keys()
    sent = [run(send, TOKEN=session["access_token"], ROOM=room, TXN="1") for _ in range(2)]
    assert sent[0] == sent[1]
    assert alice.get("/rooms/{}/event/{}", at=(room, sent[0]["event_id"]))["content"]["body"] == "hello"


def test_the_body_of_sliding_sync_gets_rooms(hearth: Any) -> None:
    alice = hearth.register("alice")
    room = alice.create_room(name="a room")
    alice.send(room, "hello")
    [example] = _examples("sync.md", '{"conn_id"')
    body = json.loads(example.replace("!room:example.org", room))
    answer = alice.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", body)
    assert answer["lists"]["all"]["count"] == 1
    assert answer["rooms"][room]["timeline"][-1]["content"]["body"] == "hello"
    assert {"to_device", "e2ee"} <= answer["extensions"].keys()


def test_the_example_sends_into_an_encrypted_room(hearth: Any, tmp_path: Path) -> None:
    alice = hearth.register("alice")
    hearth.register("bob")
    [example] = _examples("encryption.md", "import nio")
    names: dict[str, Any] = {}
    exec(example, names)

    async def story() -> None:
        bob = Phone(hearth.url, "@bob:test.example", tmp_path / "bob")
        try:
            await bob.log_in()
            room = alice.create_room(preset="public_chat", initial_state=[ENCRYPTED])
            await bob.client.join(room)
            (tmp_path / "alice").mkdir()
            await names["say"](hearth.url, alice.user_id, PASSWORD, room, "a secret", str(tmp_path / "alice"))
            await bob.until(lambda: bob.read == ["a secret"])
            assert not bob.locked
        finally:
            await bob.client.close()

    asyncio.run(story())


def test_the_example_in_python_follows_a_room_when_the_server_is_back(hearth: Any) -> None:
    alice = hearth.register("alice")
    room = alice.create_room()
    alice.send(room, "hello")
    [example] = _examples("stream.md", "import asyncio")
    names: dict[str, Any] = {}
    exec(example, names)

    def log_out() -> None:
        alice.base_url = hearth.url
        alice.post("/logout")

    class Base:
        """The server's address, which is another one when it is back."""

        def __add__(self, path: str) -> str:
            return str(hearth.url) + path

    async def story() -> None:
        tried, seen = asyncio.Event(), asyncio.Event()

        async def wait_a_little(_seconds: float) -> None:
            tried.set()
            await asyncio.sleep(0.05)

        def note(room_id: str, sender: str, content: Any) -> None:
            if (room_id, sender, content.get("body")) == (room, alice.user_id, "hello"):
                seen.set()

        names["asyncio"], names["print"] = SimpleNamespace(sleep=wait_a_little), note
        await asyncio.to_thread(hearth.stop)
        following = asyncio.create_task(names["follow"](Base(), alice.token))
        for event, then in ((tried, hearth.start), (seen, log_out)):
            waiting = asyncio.create_task(event.wait())
            await asyncio.wait((waiting, following), return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_S)
            assert event.is_set(), following
            await asyncio.to_thread(then)
        await asyncio.wait_for(following, TIMEOUT_S)
        await asyncio.wait_for(names["follow"](Base(), "good no longer"), TIMEOUT_S)

    asyncio.run(story())


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is absent")
def test_the_example_in_javascript_follows_a_room(hearth: Any, tmp_path: Path) -> None:
    if not _has_web_sockets():
        pytest.skip("this Node.js has no WebSocket")
    alice = hearth.register("alice")
    room = alice.create_room()
    alice.send(room, "hello")
    [example] = _examples("stream.md", "let since")
    script = tmp_path / "follow.js"
    script.write_text(f"{example}\n{LISTEN}\nfollow({json.dumps(hearth.url)}, {json.dumps(alice.token)});\n")
    done = subprocess.run(
        ["node", "--experimental-websocket", script], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{room} {alice.user_id}"), done.stderr


def _has_web_sockets() -> bool:
    command = ["node", "--experimental-websocket", "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0
