"""Log lines: their form, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from homeserver.runtime.config_sections import LogConfig
from homeserver.runtime.logging_setup import MAX_MESSAGE, set_up_logging, tamed

logger = logging.getLogger("homeserver.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield io.StringIO()
    root.handlers[:], root.level = before
    root.setLevel(before[1])


def test_line_is_json_where_there_is_no_terminal(stream: io.StringIO) -> None:
    set_up_logging(LogConfig(), stream)
    logger.info("hello %s", "there")
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["logger"], entry["message"]) == ("info", "homeserver.test", "hello there")


def test_line_is_text_for_people(stream: io.StringIO) -> None:
    set_up_logging(LogConfig(format="human"), stream)
    logger.warning("hello")
    assert "WARNING" in stream.getvalue()
    assert stream.getvalue().endswith("test: hello\n")


@pytest.mark.parametrize("form", ["human", "json"])
def test_stack_of_an_exception_is_logged(stream: io.StringIO, form: str) -> None:
    set_up_logging(LogConfig(format=form), stream)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed")
    assert "ValueError: why" in stream.getvalue()
    assert "test_logging.py" in stream.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
@pytest.mark.parametrize(
    "text", ["GET /sync?access_token=SECRET&since=1", "Authorization: Bearer SECRET", "?access_token=SECRET"]
)
def test_tokens_never_get_into_the_log(stream: io.StringIO, form: str, text: str) -> None:
    set_up_logging(LogConfig(format=form), stream)
    logger.info("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed", extra={"uri": text})
    assert "SECRET" not in stream.getvalue()


def test_level_below_the_configured_one_is_silent(stream: io.StringIO) -> None:
    set_up_logging(LogConfig(level="warning"), stream)
    logger.info("quiet")
    assert stream.getvalue() == ""


def test_strangers_text_is_tamed() -> None:
    assert tamed("as it is, ü") == "as it is, ü"
    assert tamed("a\n12:00:00 ERROR forged\x1b[2J") == "a\n    12:00:00 ERROR forged\N{REPLACEMENT CHARACTER}[2J"
    assert len(tamed("x" * 1_000_000)) < MAX_MESSAGE + 50
