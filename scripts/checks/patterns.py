"""What may stand only in some places: SQL, broad excepts, ignored types, sleeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from source import Finding, Source

# Who needs a connection's type only (to hand a transaction on to a store function) may import that.
SQL_TYPES_ONLY = frozenset({"Connection"})
SQL_PLACES = ("homeserver/store/", "tests/")
SQL_FILES = {
    "homeserver/runtime/db.py": "wraps SQLAlchemy for all",
    "homeserver/runtime/statement.py": "wraps SQLAlchemy for all",
    "homeserver/main/database.py": "opens the database, and says in one line why it can't",
}

BROAD_EXCEPTS = {
    "homeserver/clientapi/stream.py": "the request boundary, of requests over a WebSocket",
    "federation/destinations.py": "a background task, and listeners that must not keep each other from being told",
    "federation/backfill.py": "a background task, whose waiters go on without it",
    "federation/joining/partial_state.py": "a background task, tried again",
    "federation/inbound/edus.py": "an EDU's fault must not harm the others of its transaction",
    "federation/inbound/room_parts.py": "one room's fault is told where its events are waited for, or they are checked later",
    "federation/inbound/room_queue.py": "an event's fault must not stop its room's queue",
    "federation/dns.py": "twisted.names has no common base; it becomes a LookupFailed",
    "federation/outbound/distributor.py": "a background task: a row that can't be understood must not stop those behind it",
    "federation/outbound/sender.py": "a background task: one server's fault must not stop the others",
    "media_repo/images.py": "decoders of hostile input raise anything; it becomes a CannotThumbnail",
    "homeserver/runtime/coroutine.py": "what a coroutine raises is its caller's",
    "homeserver/runtime/db.py": "what a store function raises is its caller's",
    "homeserver/runtime/http/request.py": "the request boundary",
    "homeserver/runtime/http/answer.py": "the request boundary",
    "homeserver/runtime/http_client.py": "OpenSSL and Twisted have each their own; it becomes an HttpFailure",
    "homeserver/runtime/lifecycle.py": "one hook's fault must not keep the others from running",
    "homeserver/runtime/tls.py": "OpenSSL, cryptography and Twisted have each their own; it becomes a ConfigError",
    "homeserver/rooms/extremities.py": "a background task",
    "homeserver/rooms/profile_propagation.py": "a background task",
    "homeserver/rooms/ingest.py": "an event's fault must not stop those that came with it",
    "homeserver/sync/stream.py": "one stream's fault must not keep others from being told; it is met again, and told, in `run`",
    "homeserver/store/log_writer.py": "a batch's fault is its items'; a follower's must not stop the others",
}

_BARE_IGNORE = re.compile(r"type:\s*ignore(?!\[)")
_OPEN_WORK = re.compile(r"(TODO|FIXME|XXX)\b")
_SLEEP = re.compile(r"\btime\.sleep\(|\bfrom time import .*\bsleep\b")


def check_sql(source: Source) -> Iterator[Finding]:
    if source.name.startswith(SQL_PLACES) or source.name in SQL_FILES:
        return
    for node in source.nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "sqlalchemy"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
            names = [alias.name for alias in node.names if alias.name not in SQL_TYPES_ONLY]
        else:
            continue
        if names:
            yield Finding(node.lineno, f"SQL only in homeserver/store: imports {', '.join(names)}")


def check_broad_excepts(source: Source) -> Iterator[Finding]:
    """A new place is added to BROAD_EXCEPTS with its reason."""
    if source.name in BROAD_EXCEPTS or source.package == "tests":
        return
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _reraises(node):
            yield Finding(
                node.lineno, "catches everything: only at the boundaries listed in scripts/checks/patterns.py"
            )


def _is_broad(node: ast.ExceptHandler) -> bool:
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(
        item is None or (isinstance(item, ast.Name) and item.id in ("Exception", "BaseException")) for item in caught
    )


def _reraises(node: ast.ExceptHandler) -> bool:
    last = node.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def check_type_ignores(source: Source) -> Iterator[Finding]:
    for line, comment in source.comments.items():
        if _BARE_IGNORE.search(comment):
            yield Finding(line, "an ignore carries its code: type: ignore[code]  # why")


def check_sleeps(source: Source) -> Iterator[Finding]:
    """Tests wait for what they wait for, or move a ManualClock on; `# poll: why` excuses what can only be polled."""
    if source.package != "tests":
        return
    for number, line in enumerate(source.text.splitlines(), 1):
        if _SLEEP.search(line) and "# poll:" not in line:
            yield Finding(number, "no sleeps in tests")


def check_open_work(source: Source) -> Iterator[Finding]:
    for line, comment in source.comments.items():
        if _OPEN_WORK.match(comment):
            yield Finding(line, "open work belongs into an issue")
