"""Child processes that never outlive the tests, however these end."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import socket
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1


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
    """A port that nobody listened at a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_synapse() -> Path | None:
    """The Python that has Synapse: of .venv-synapse, which scripts/test makes, or $HEARTH_SYNAPSE_VENV. None if there is none."""
    venv = Path(os.environ.get("HEARTH_SYNAPSE_VENV") or Path(__file__).resolve().parents[2] / ".venv-synapse")
    python = venv / "bin" / "python"
    return python if python.exists() and any(venv.glob("lib/python*/site-packages/synapse")) else None


def give_to(path: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
