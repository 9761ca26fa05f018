"""What others write in headers and in multipart, and what is made of it."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media_repo.headers import clean_file_name, clean_type, disposition_of, read_about
from media_repo.media import About
from media_repo.multipart import NotMultipart, parse_media
from media_repo.serving import Span, parse_range

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("War and Peace.pdf", 'inline; filename="War and Peace.pdf"'),
        ('a"b\\c.txt', "inline; filename*=utf-8''a%22b%5Cc.txt"),
        ("100%.txt", "inline; filename*=utf-8''100%25.txt"),
        ("größe 猫.txt", "inline; filename*=utf-8''gr%C3%B6%C3%9Fe%20%E7%8C%AB.txt"),
        ("x\r\nSet-Cookie: a=b", 'inline; filename="xSet-Cookie: a=b"'),
        ("../../etc/passwd", 'inline; filename="../../etc/passwd"'),
        ("\ud800a", 'inline; filename="a"'),
        ("\r\n", "inline"),
        ("", "inline"),
        (None, "inline"),
    ],
)
def test_file_name_is_sent_safely(name: str | None, sent: str) -> None:
    assert disposition_of(About("text/plain", clean_file_name(name))) == sent


@relaxed
@given(st.text(max_size=50))
def test_file_name_survives_the_way_to_another_server(name: str) -> None:
    clean = clean_file_name(name)
    disposition = disposition_of(About("text/plain", clean))
    assert disposition.isascii() and disposition.isprintable()
    if clean is not None:
        assert read_about(None, disposition).file_name == clean


@relaxed
@given(st.text(max_size=100), st.text(max_size=100))
def test_no_header_of_another_server_is_too_strange(content_type: str, disposition: str) -> None:
    about = read_about(content_type, disposition)
    assert about.content_type.isascii() and "\n" not in about.content_type + (about.file_name or "")


@pytest.mark.parametrize("content_type", [None, "", "nonsense", "text/plain\tx", "a/b; \x7f", "x/" + "y" * 300])
def test_what_is_no_type_is_octet_stream(content_type: str | None) -> None:
    assert clean_type(content_type) == "application/octet-stream"


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [("Text/Plain; charset=utf-8", "inline"), ("text/html", "attachment"), ("image/svg+xml", "attachment")],
)
def test_only_harmless_types_are_inline(content_type: str, kind: str) -> None:
    assert disposition_of(About(clean_type(content_type), None)) == kind


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-3", Span(0, 4)),
        ("bytes=7-", Span(7, 3)),
        ("bytes=-4", Span(6, 4)),
        ("bytes=5-99", Span(5, 5)),
        ("bytes=-99", Span(0, 10)),
        ("bytes=10-", Span(10, 0)),
        ("bytes=-0", Span(10, 0)),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("lines=1-2", None),
    ],
)
def test_range_of_ten_bytes(header: str, span: Span | None) -> None:
    assert parse_range(header, 10) == span


def parse(body: bytes, content_type: str = "multipart/mixed; boundary=x") -> bytes:
    """The content of the second part."""
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        part = parse_media(file, len(body), content_type)
        file.seek(part.start)
        return file.read(part.size_bytes)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"--x\r\n\r\n{}\r\n--x\r\n\r\ny\r\n--x--", b"y"),
        (b"preamble\r\n--x\r\nA: b\r\n\r\n{}\r\n--x \t\r\nC: d\r\n\r\n\r\ny\r\n\r\n--x--\r\nepilogue", b"\r\ny\r\n"),
        (b"--x\r\n\r\n{}\r\n--x\r\nA: b\r\n\r\n\r\n--x--", b""),
        (b"--x\r\n\r\n{}\r\n--x\r\nA: b\r\n\r\n--x--", b""),
    ],
)
def test_second_part_is_the_content(body: bytes, content: bytes) -> None:
    assert parse(body) == content


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/mixed", b"--x\r\n\r\n{}\r\n--x\r\n\r\ny\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n{}\r\n--x\r\n\r\ny\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b""),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n{}\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n{}\r\n--x\r\n\r\nendless"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n{}\r\n--x\r\nContent-Type: text/plain\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n{}\r\n--x\r\n\r\none\r\n--x\r\n\r\ntwo\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n" + b"z" * 100_000 + b"\r\n--x\r\n\r\ny\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n{}\r\n--x\r\nA: " + b"z" * 100_000 + b"\r\n\r\ny\r\n--x--\r\n"),
        (f"multipart/mixed; boundary={'x' * 1000}", b"--x"),
        ("multipart/mixed; boundary=\xff", b"--\xff"),
    ],
)
def test_what_is_not_two_parts_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(NotMultipart):
        parse(body, content_type)


@relaxed
@given(st.lists(st.sampled_from([b"--x", b"--", b"\r\n", b"A: b", b"y", b"x"]), max_size=30))
def test_no_multipart_is_too_strange(pieces: list[bytes]) -> None:
    try:
        content = parse(b"".join(pieces))
    except NotMultipart:
        return
    assert b"\r\n--x" not in content
