"""Signals to a server that has only just begun to listen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kit.servers import CHECKOUT, write_config

TIMEOUT_S = 120
# The server as its command starts it; the signal comes the moment a port is open.
PROGRAM = """
import os, signal, sys
from homeserver.main import process
from homeserver.main.cli import main

install_reactor = process.install_reactor

def install_reactor_and_be_told_to_stop_when_listening():
    reactor = install_reactor()
    from homeserver.runtime.listeners import Listeners
    listen = Listeners.start

    def listen_and_be_told_to_stop(listeners):
        listen(listeners)
        os.kill(os.getpid(), signal.SIGTERM)

    Listeners.start = listen_and_be_told_to_stop
    return reactor

process.install_reactor = install_reactor_and_be_told_to_stop_when_listening
sys.exit(main(["run", "--config", sys.argv[1]]))
"""


def test_who_finds_the_port_open_can_stop_the_server_cleanly(tmp_path: Path) -> None:
    config = write_config(tmp_path, "sqlite:///hearth.db", 0, {"log": {"level": "info"}})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Stopped" in done.stderr
