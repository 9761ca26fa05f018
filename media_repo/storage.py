"""Files on the local disk.

A file's name is random and ours alone: nothing a user or another server says becomes part of a path. The first four
letters make two levels of folders. A file is written below `incoming`, forced to disk and then renamed, so that what
has its final name is whole, also after a crash. All functions block: call them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import IO, Final

from attrs import define

CHUNK_BYTES: Final = 256 * 1024
# What is older was left behind by a crash; no upload takes so long.
STALE_S: Final = 24 * 3600
_FILE_ID_BYTES: Final = 16


@define(eq=False)
class MediaStorage:
    folder: Path

    @property
    def incoming(self) -> Path:
        """For what is not complete yet. On the same file system as the rest."""
        return self.folder / "incoming"

    def prepare(self) -> None:
        """Makes the folders, and sweeps away what crashes left behind. Raises: OSError."""
        self.incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        oldest_s = time.time() - STALE_S
        for left in self.incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < oldest_s:
                    left.unlink()

    def save(self, source: IO[bytes], size_bytes: int) -> str:
        """Keeps the next `size_bytes` of the source; the new file's ID. Raises: OSError, EOFError."""
        file_id = secrets.token_hex(_FILE_ID_BYTES)
        descriptor, name = tempfile.mkstemp(dir=self.incoming)
        try:
            with open(descriptor, "wb") as target:
                _copy(source, target, size_bytes)
                target.flush()
                os.fsync(descriptor)
            self._move(Path(name), self._path(file_id))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return file_id

    def open(self, file_id: str) -> IO[bytes]:
        """Raises: FileNotFoundError."""
        return self._path(file_id).open("rb")

    def has(self, file_id: str) -> bool:
        return self._path(file_id).is_file()

    def remove(self, file_id: str) -> None:
        self._path(file_id).unlink(missing_ok=True)

    def _path(self, file_id: str) -> Path:
        return self.folder / "content" / file_id[:2] / file_id[2:4] / file_id[4:]

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        source.replace(target)
        for folder in (target.parent, target.parent.parent, target.parent.parent.parent):
            _force(folder)


def _copy(source: IO[bytes], target: IO[bytes], size_bytes: int) -> None:
    left = size_bytes
    while left:
        data = source.read(min(left, CHUNK_BYTES))
        if not data:
            raise EOFError(f"{left} bytes are missing")
        target.write(data)
        left -= len(data)


def _force(folder: Path) -> None:
    """A new name is on disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
