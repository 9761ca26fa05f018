"""Content-Type and Content-Disposition: what others wrote in them made safe to keep, and to send.

Spec: client-server-api#serving-inline-content
"""

from __future__ import annotations

import re
from email.message import Message
from typing import Final
from urllib.parse import quote

from media_repo.media import About

DEFAULT_TYPE: Final = "application/octet-stream"
MAX_TYPE_CHARS: Final = 255
MAX_FILE_NAME_CHARS: Final = 255

INLINE_TYPES: Final = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
SAFETY_HEADERS: Final = (
    (
        "Content-Security-Policy",
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
        "style-src 'unsafe-inline'; object-src 'self';",
    ),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
)

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}([ \t]*;[\x20-\x7e\t]*)?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_NAME: Final = re.compile(r"[\x20-\x7e]+")


def clean_type(content_type: str | None) -> str:
    """The type if it has the form of one, else application/octet-stream."""
    found = (content_type or "").strip()
    if len(found) > MAX_TYPE_CHARS or _TYPE.fullmatch(found) is None:
        return DEFAULT_TYPE
    return found


def clean_file_name(name: str | None) -> str | None:
    """Without control characters and outer spaces, and not too long; None where nothing is left. It names no file of ours."""
    return None if name is None else _CONTROL.sub("", name)[:MAX_FILE_NAME_CHARS].strip() or None


def read_about(content_type: str | None, disposition: str | None) -> About:
    """What the headers of another server's answer say of a file."""
    return About(clean_type(content_type), clean_file_name(_file_name_in(disposition)))


def disposition_of(about: About) -> str:
    """inline for what no browser runs, else attachment; with the file's name."""
    base = about.content_type.partition(";")[0].strip().lower()
    kind = "inline" if base in INLINE_TYPES else "attachment"
    name = about.file_name
    if name is None:
        return kind
    if _PLAIN_NAME.fullmatch(name) and not set(name) & set('"\\%'):
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename*=utf-8''{quote(name, safe='')}"


def _file_name_in(disposition: str | None) -> str | None:
    if disposition is None:
        return None
    message = Message()
    message["Content-Disposition"] = disposition[:4096].replace("\r", "").replace("\n", "")
    try:
        return message.get_filename()
    except (LookupError, ValueError):  # an unknown charset, or nonsense
        return None
