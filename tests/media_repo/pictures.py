"""Pictures for tests, well-formed and not."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image

RED, BLUE = (200, 0, 0), (0, 0, 200)


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB", **how: Any) -> bytes:
    """The left half red, the right half blue."""
    image = Image.new(mode, (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return _saved(image, kind, **how)


def animation(width: int, height: int, frames: int, kind: str = "GIF") -> bytes:
    """Each frame of another grey."""
    images = [Image.new("RGB", (width, height), (number * 7 % 256,) * 3) for number in range(frames)]
    return _saved(images[0], kind, save_all=True, append_images=images[1:], duration=40)


def bomb(width: int, height: int) -> bytes:
    """A few bytes that say they are so many pixels, as a PNG."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def opened(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    target = BytesIO()
    image.save(target, kind, **how)
    return target.getvalue()
