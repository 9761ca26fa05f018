"""Chromium without a screen, told what to do through the DevTools protocol on two pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from select import select
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ABSENT = "scripts/test installs Chromium where it can; it is absent"
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
TIMEOUT_S = 90
_BROWSER_READS, _BROWSER_WRITES = 3, 4


class Page:
    """One tab. Names of commands: the DevTools protocol's."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._received = b""
        self._ids = count(1)
        self._session: str | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.command("Page.enable")

    def command(self, method: str, **params: Any) -> Any:
        number = next(self._ids)
        asked: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(asked).encode() + b"\0")
        while True:
            message = self._next_message()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str, *, before: str = "") -> None:
        """Load a page and wait until it is there; `before`: a script that runs ahead of its own."""
        if before:
            self.command("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.command("Page.navigate", url=url)
        while self._next_message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of an expression; of what it promises, where it gives a promise."""
        done = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            readable, _, _ = select([self._from_browser], [], [], TIMEOUT_S)
            assert readable, "the browser is silent"
            part = os.read(self._from_browser, 1 << 16)
            assert part, "the browser is gone"
            self._received += part
        line, self._received = self._received.split(b"\0", 1)
        return json.loads(line)  # type: ignore[no-any-return]


@contextmanager
def open_browser(directory: Path) -> Iterator[Page]:
    """A browser with an empty profile in `directory`, which reaches no host but this machine."""
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()

    def arrange() -> None:
        # Copies first: one of the two may already have the number that the other is to get.
        reads, writes = os.dup(browser_reads), os.dup(browser_writes)
        os.dup2(reads, _BROWSER_READS)
        os.dup2(writes, _BROWSER_WRITES)

    command = [str(EXECUTABLE), *OPTIONS, f"--user-data-dir={directory}", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        command, preexec_fn=arrange, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        yield Page(we_write, we_read)
    finally:
        process.kill()
        process.wait()
        os.close(we_write)
        os.close(we_read)
