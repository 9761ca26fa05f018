"""The example of docs/clients/stream.md, as it stands there: aiohttp's WebSocket client."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs/clients/stream.md"
WAIT_S = 120


def test_the_python_example_follows_a_room(hearth: Any) -> None:
    alice = hearth.register("alice")
    room = alice.create_room()
    alice.send(room, "first")
    messages: list[Any] = []
    example = re.search(r"## In Python\n[^#]*?\n\n((?:    [^\n]*\n|\n)+)", PAGE.read_text())
    assert example is not None
    came = asyncio.Event()
    names: dict[str, Any] = {"print": lambda *said: (messages.append(said), came.set())}
    exec(re.sub(r"^    ", "", example[1], flags=re.MULTILINE), names)

    async def follow() -> None:
        following = asyncio.create_task(names["follow"](hearth.url, alice.token))
        await seen("first")
        await asyncio.to_thread(alice.send, room, "second")
        await seen("second")
        await asyncio.to_thread(alice.post, "/logout")
        await asyncio.wait_for(following, WAIT_S)

    async def seen(body: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while not any(content.get("body") == body for _, _, content in messages):
                await came.wait()
                came.clear()

    asyncio.run(follow())
    assert {(where, sender) for where, sender, _ in messages} == {(room, alice.user_id)}
