"""Logging: one line an entry, for people on a terminal and as JSON otherwise."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

from homeserver.runtime.config_sections import LogConfig
from homeserver.runtime.http.request import current_request

_TOKEN = re.compile(r"(access_token=|Bearer )[^\s&\"']+")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


# Text of strangers is part of many entries: it must not look like an entry, steer a terminal, or fill the disk.
MAX_MESSAGE = 8_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def tamed(text: str) -> str:
    """The text without control characters, further lines indented, and not too long."""
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}… ({len(text)} characters)"
    return text if text.isprintable() else _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).replace("\n", "\n    ")


def without_tokens(text: str) -> str:
    """The text with access tokens struck out."""
    return _TOKEN.sub(r"\1<redacted>", text) if "access_token=" in text or "Bearer " in text else text


def add_request_id(record: logging.LogRecord) -> bool:
    """A logging filter that passes all, and notes which request an entry belongs to."""
    request = current_request.get()
    if request is not None and not hasattr(record, "request_id"):
        record.request_id = request.request_id
    return True


class HumanFormatter(logging.Formatter):
    """`12:30:01.123 INFO    runtime.http 7f3: message`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.name.removeprefix("homeserver.")
        request_id = getattr(record, "request_id", "")
        where = f"{name} {request_id}" if request_id else name
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {where}: {tamed(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_tokens(line)


class JsonFormatter(logging.Formatter):
    """One object a line; what a call gave in `extra` stands beside the usual keys."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_tokens(tamed(record.getMessage())),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            entry["exception"] = without_tokens(self.formatException(record.exc_info))
        return without_tokens(json.dumps(entry, default=str))


def set_up_logging(config: LogConfig, stream: TextIO = sys.stderr) -> None:
    """Send all log entries, Twisted's too, to the stream."""
    human = config.format == "human" or (config.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.addFilter(add_request_id)
    handler.setFormatter(HumanFormatter() if human else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    _observe_twisted()


def _observe_twisted() -> None:
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    logging.getLogger("twisted").setLevel(logging.WARNING)
    if getattr(globalLogBeginner, "_temporaryObserver", None) is None:
        return  # it has begun already; beginning again would be warned of
    observer: Any = STDLibLogObserver("twisted")  # mypy does not see what zope's decorators provide
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
