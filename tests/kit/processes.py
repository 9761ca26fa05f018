"""Child processes that never outlive the tests, however these end."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

_PR_SET_PDEATHSIG = 1
BLOCKS = 50
_ports: deque[int] = deque()
_claims: list[socket.socket] = []


def die_with_parent(user: pwd.struct_passwd | None = None) -> Callable[[], None]:
    """For Popen's preexec_fn: become `user`, and be killed when the thread that started the process ends."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which takes it back

    return prepare


def get_unprivileged_user() -> pwd.struct_passwd | None:
    """Whom root runs PostgreSQL as, since it refuses to run as root; None when we aren't root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is neither a user postgres nor a user nobody to run PostgreSQL as")


def get_free_port() -> int:
    """A port for a server of this process, also for the time while that server is down.

    It is none of those that the kernel gives to connections: with one of them a server that starts anew may find its port taken.
    """
    if not _ports:
        _ports.extend(_claim_ports())
    for _ in range(len(_ports)):
        port = _ports.popleft()
        _ports.append(port)  # it comes again when all others were used
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"none of the {len(_ports)} ports of this process is free")


def _claim_ports() -> range:
    """Ports that no other process of tests on this machine uses: this one has the abstract socket of their name until it ends."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    below, above = range(10_000, low), range(high + 1, 65_536)
    whole = max(below, above, key=len)
    starts = [*whole[:: len(whole) // BLOCKS]][:BLOCKS]
    SystemRandom().shuffle(starts)
    for start in starts:
        claim = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            claim.bind(f"\0hearth-tests-ports-{start}")
            _claims.append(claim)
            return range(start, start + len(whole) // BLOCKS)
        claim.close()
    raise RuntimeError("all ports are claimed by other runs of the tests")


def find_synapse() -> Path | None:
    """The Python that has Synapse: of .venv-synapse, which scripts/test makes, or $HEARTH_SYNAPSE_VENV. None if there is none."""
    venv = Path(os.environ.get("HEARTH_SYNAPSE_VENV") or Path(__file__).resolve().parents[2] / ".venv-synapse")
    python = venv / "bin" / "python"
    return python if python.exists() and any(venv.glob("lib/python*/site-packages/synapse")) else None


def give_to(path: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
