"""Commands about rooms, beside a running server or a stopped one.

hearth room list [--empty] [--limit N]    the rooms with most events
hearth room show ROOM                     its members, extremities and state, and what is wrong with them
hearth room repair ROOM                   put right what `show` finds wrong, and merge its extremities
hearth room purge ROOM [--force]          delete it, as if this server had never been in it
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from homeserver.matrix.ids import domain_of, parse_room_id
from homeserver.runtime.config import Config

if TYPE_CHECKING:
    from homeserver.rooms.repair import RoomReport

Add = Callable[..., Any]
Load = Callable[[argparse.Namespace], Config]


def add_room_commands(commands: Any, add: Add, load: Load) -> None:
    """`add(commands, name, run, help)` adds one, `load` reads its configuration."""
    rooms = commands.add_parser("room", help="about rooms").add_subparsers(required=True)

    def command(name: str, act: Callable[[Any, argparse.Namespace], Awaitable[int]], help: str) -> Any:
        return add(rooms, name, lambda arguments: _run(load(arguments), arguments, act), help)

    listing = command("list", _list, "list the rooms with most events")
    listing.add_argument("--limit", type=int, default=50, help="how many; default: 50")
    listing.add_argument("--empty", action="store_true", help="only those that nobody here is in")
    purge = command("purge", _purge, "delete a room")
    purge.add_argument("--force", action="store_true", help="though users of this server are in it")
    for parser in (
        command("show", _show, "show a room, and what is wrong with it"),
        command("repair", _repair, "put a room's current state right, and merge its extremities"),
        purge,
    ):
        parser.add_argument("room_id", metavar="ROOM", help="a room id")


def _run(
    config: Config, arguments: argparse.Namespace, act: Callable[[Any, argparse.Namespace], Awaitable[int]]
) -> int:
    from homeserver.main.process import run_once

    if hasattr(arguments, "room_id"):
        parse_room_id(arguments.room_id)
    code: Any = run_once(config, lambda services: act(services, arguments))
    return int(code)


async def _list(services: Any, arguments: argparse.Namespace) -> int:
    from homeserver.store.room_repair import load_room_lines

    core = services.core
    lines = await core.database.read(
        lambda conn: load_room_lines(conn, core.server_name, arguments.limit, only_empty=arguments.empty)
    )
    print(f"{'events':>9} {'joined':>7} {'local':>6} {'tips':>5} {'version':>8}  room")
    for line in lines:
        figures = f"{line.events:>9} {line.joined:>7} {line.local:>6} {line.extremities:>5} {line.version:>8}"
        print(f"{figures}  {line.room_id}")
    return 0


async def _show(services: Any, arguments: argparse.Namespace) -> int:
    report = await services.rooms.repair.examine(arguments.room_id)
    head = await services.core.heads.load(arguments.room_id)
    facts = report.facts
    joined = head.joined_users()
    local = sorted(user_id for user_id in joined if domain_of(user_id) == services.core.server_name)
    members = ", ".join(f"{number} {name}" for name, number in sorted(facts.memberships.items()))
    print(f"{arguments.room_id}")
    print(f"  version {facts.version}, made by {facts.creator}, {'published' if facts.is_public else 'not published'}")
    print(f"  members: {members or 'none'}; {len(head.joined_servers())} servers")
    print(f"  of this server: {', '.join(local[:20]) or 'nobody'}{' …' if len(local) > 20 else ''}")
    print(f"  state: {facts.state_size} keys")
    kinds = (
        f"{facts.rejected} rejected, {facts.soft_failed} soft failed, {facts.outliers} without a place in the timeline"
    )
    print(f"  events: {facts.events}, of them {kinds}; {facts.gaps} gaps, {facts.staged} waiting to be taken in")
    if facts.waits_for_members_of:
        print(f"  joined with partial state: waits for the members from {', '.join(facts.waits_for_members_of[:5])}")
    if facts.empty_since_ms is not None:
        since = datetime.fromtimestamp(facts.empty_since_ms / 1000, UTC)
        print(f"  empty since {since:%Y-%m-%d %H:%M} UTC")
    _print_extremities(report)
    return _print_faults(report.faults)


def _print_extremities(report: RoomReport) -> None:
    print(f"  depth {report.facts.depth}, extremities:")
    for event in report.extremities:
        pdu = event.pdu
        print(f"    {pdu.event_id} at depth {pdu.depth}: {pdu.type} of {pdu.sender}")


def _print_faults(faults: Any) -> int:
    """1 where something is wrong; several extremities are not, for the next event merges them."""
    for fault in faults:
        print(f"  ! {fault}")
    wrong = [fault for fault in faults if not fault.startswith("the room has")]
    if wrong:
        print("`hearth room repair` puts this right.")
    return 1 if wrong else 0


async def _repair(services: Any, arguments: argparse.Namespace) -> int:
    faults = await services.rooms.repair.repair(arguments.room_id)
    for fault in faults:
        print(f"  ! {fault}")
    report = await services.rooms.repair.examine(arguments.room_id)
    if not faults:
        print("Nothing was wrong.")
    elif report.faults:
        print("Put right, but for:")
        return _print_faults(report.faults)
    else:
        print("Put right.")
    return 0


async def _purge(services: Any, arguments: argparse.Namespace) -> int:
    await services.core.purges.purge(arguments.room_id, force=arguments.force)
    print(f"Deleted {arguments.room_id}")
    return 0
