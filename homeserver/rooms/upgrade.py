"""Upgrading rooms: a new room of another version takes an old one's place.

1. The new room is made whole, in one transaction, with the old one's state, its bans (the first of them), its aliases
   and its place in the directory.
2. The remaining bans follow, in portions.
3. The old room gets its tombstone, and power levels under which nobody talks in it.

A crash between the steps leaves an old room that still works, so the upgrade can be done again.

Spec: client-server-api#room-upgrades
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from attrs import define, frozen
from sqlalchemy import Connection

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import DEFAULT_LEVELS, INFINITE, parse_level
from homeserver.matrix.state_map import JOIN_RULES, POWER_LEVELS, StateKey, member_key
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.rooms.creation import NONCE, RoomCreation, check_additional_creators, creation_content
from homeserver.rooms.defaults import CREATOR_LEVEL, TOMBSTONE_LEVEL_UNDER_CREATORS
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.writer import Draft
from homeserver.store.aliases import move_aliases
from homeserver.store.public_rooms import load_is_public, save_is_public

TRANSFERRED: Final = (
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.canonical_alias",
)
BANS_AT_ONCE: Final = 100
MIN_RESTRICTED_LEVEL: Final = 50


@frozen
class _Upgrade:
    """What an upgrade needs to know of the old room."""

    old: RoomHead
    version: RoomVersion
    user_id: UserId
    additional_creators: Sequence[str]
    state: Mapping[StateKey, Pdu]

    @property
    def creators(self) -> set[str]:
        """The new room's creators, where its version gives them their power."""
        if not self.version.creators_have_infinite_power:
            return set()
        return {self.user_id, *self.additional_creators}


@define(eq=False)
class RoomUpgrades:
    """Upgrades rooms for local users."""

    creation: RoomCreation

    async def upgrade(
        self, requester: Requester, room_id: RoomId, new_version: str, additional_creators: Sequence[str] = ()
    ) -> RoomId:
        """The room that takes the place of this one.

        Raises: NotFound, Forbidden, UnsupportedRoomVersion, InvalidParam, InvalidRoomState.

        Spec: client-server-api#post_matrixclientv3roomsroomidupgrade
        """
        requester.check_not_suspended()
        version = room_version(new_version)
        if version.additional_creators:
            check_additional_creators(list(additional_creators), "additional_creators")
        head = await self.creation.writer.heads.load(room_id)
        _check_may_upgrade(head, requester.user_id)
        upgrade = _Upgrade(head, version, requester.user_id, additional_creators, await self._load_transferred(head))
        bans = await self._load_bans(upgrade)
        new_room = await self._create(upgrade, bans[:BANS_AT_ONCE])
        await self._finish_new(upgrade, new_room, bans[BANS_AT_ONCE:])
        await self._close_old(upgrade, new_room)
        return new_room

    async def _load_transferred(self, head: RoomHead) -> dict[StateKey, Pdu]:
        keys = [(type_, "") for type_ in (*TRANSFERRED, POWER_LEVELS[0])]
        if head.create.content.get("type") == "m.space":
            keys += sorted(key for key in head.state if key[0] == "m.space.child")
        ids = {head.state[key]: head.room_id for key in keys if key in head.state}
        found = await self.creation.writer.events.load_many(ids, {head.room_id: head.version})
        return {
            found[head.state[key]].pdu.key: found[head.state[key]].pdu for key in keys if head.state.get(key) in found
        }

    async def _load_bans(self, upgrade: _Upgrade) -> list[Draft]:
        head = upgrade.old
        banned = sorted(user_id for user_id, membership in head.members.items() if membership == "ban")
        ids = {head.state[member_key(user_id)]: head.room_id for user_id in banned}
        found = await self.creation.writer.events.load_many(ids, {head.room_id: head.version})
        drafts = []
        for event in found.values():
            reason = event.pdu.content.get("reason")
            content = {"membership": "ban", **({"reason": reason} if isinstance(reason, str) else {})}
            if event.pdu.state_key not in upgrade.creators:
                drafts.append(Draft(MEMBER, upgrade.user_id, content, event.pdu.state_key))
        return sorted(drafts, key=lambda draft: draft.state_key or "")

    # -- the new room ------------------------------------------------------------------------------------------------

    async def _create(self, upgrade: _Upgrade, bans: Sequence[Draft]) -> RoomId:
        old, user_id, version = upgrade.old, upgrade.user_id, upgrade.version
        is_public = bool(await self.creation.contents.database.read(load_is_public, old.room_id))
        state = [
            Draft(key[0], user_id, _transferred(key, pdu, version), key[1])
            for key, pdu in upgrade.state.items()
            if key != POWER_LEVELS
        ]
        drafts = [
            Draft("m.room.create", user_id, _creation(upgrade), ""),
            Draft(MEMBER, user_id, await self.creation.contents.load("join", user_id, {}), user_id),
            Draft(POWER_LEVELS[0], user_id, _working_levels(upgrade), ""),
            *state,
            *bans,
        ]

        def save(room_id: RoomId, conn: Connection, _position: int) -> None:
            move_aliases(conn, old.room_id, room_id)
            save_is_public(conn, old.room_id, False)

        return await self.creation.write(version, drafts, is_public=is_public, save=save)

    async def _finish_new(self, upgrade: _Upgrade, room_id: RoomId, bans: Sequence[Draft]) -> None:
        """The bans that are left, then the power levels as they were in the old room."""
        writer = self.creation.writer
        for start in range(0, len(bans), BANS_AT_ONCE):
            portion = bans[start : start + BANS_AT_ONCE]
            await writer.write(room_id, partial(_not_banned_yet, portion))
        levels = _levels(upgrade)
        if levels != _working_levels(upgrade):
            await writer.write(room_id, lambda _: [Draft(POWER_LEVELS[0], upgrade.user_id, levels, "")])

    # -- the old room ------------------------------------------------------------------------------------------------

    async def _close_old(self, upgrade: _Upgrade, new_room: RoomId) -> None:
        user_id = upgrade.user_id
        tombstone = {"body": "This room has been replaced", "replacement_room": new_room}

        def plan(head: RoomHead) -> Sequence[Draft]:
            drafts = [Draft("m.room.tombstone", user_id, tombstone, "")]
            levels = head.power_levels
            if ("m.room.canonical_alias", "") in head.state and levels.user(user_id) >= levels.event(
                "m.room.canonical_alias", True
            ):
                drafts.append(Draft("m.room.canonical_alias", user_id, {}, ""))
            restricted = restricted_levels(head, user_id)
            if restricted is not None:
                drafts.append(Draft(POWER_LEVELS[0], user_id, restricted, ""))
            return drafts

        await self.creation.writer.write(upgrade.old.room_id, plan)


def _not_banned_yet(bans: Sequence[Draft], head: RoomHead) -> Sequence[Draft]:
    return [draft for draft in bans if head.membership(UserId(draft.state_key or "")) != "ban"]


def _check_may_upgrade(head: RoomHead, user_id: UserId) -> None:
    levels = head.power_levels
    if not head.is_joined(user_id):
        raise Forbidden("You are not in this room")
    if levels.user(user_id) < levels.event("m.room.tombstone", True):
        raise Forbidden("You have not the power to send m.room.tombstone, so can't upgrade this room")


def restricted_levels(head: RoomHead, user_id: UserId) -> dict[str, Any] | None:
    """Power levels for a room that was replaced: only moderators talk and invite.

    None when they are so already, or the user has not the power to make them so.

    Spec: client-server-api#room-upgrades
    """
    event = head.pinned.get(POWER_LEVELS)
    levels = head.power_levels
    power = levels.user(user_id)
    floor = max(MIN_RESTRICTED_LEVEL, levels.users_default + 1)
    if event is None or power < max(floor, levels.event(POWER_LEVELS[0], True)):
        return None
    changed = {}
    for name in ("events_default", "invite"):
        level = parse_level(event.pdu.content.get(name), head.version)
        if (DEFAULT_LEVELS[name] if level is None else level) < floor:
            changed[name] = floor
    return {**event.pdu.content, **changed} if changed else None


def _creation(upgrade: _Upgrade) -> dict[str, Any]:
    old = upgrade.old
    given: dict[str, Any] = {
        key: value
        for key, value in old.create.content.items()
        if key not in ("predecessor", "additional_creators", "creator", "room_version", NONCE)
    }
    given["predecessor"] = {"room_id": old.room_id, "event_id": old.extremities[0]}
    if upgrade.version.additional_creators and upgrade.additional_creators:
        given["additional_creators"] = list(upgrade.additional_creators)
    return creation_content(upgrade.version, upgrade.user_id, given)


def _transferred(key: StateKey, pdu: Pdu, version: RoomVersion) -> dict[str, Any]:
    """Content for the new room; a join rule that its version does not know becomes the strictest."""
    rule = pdu.content.get("join_rule")
    if key == JOIN_RULES and not (
        rule in ("public", "invite", "private")
        or (rule == "knock" and version.knock)
        or (rule == "restricted" and version.restricted_join)
        or (rule == "knock_restricted" and version.knock_restricted)
    ):
        return {"join_rule": "invite"}
    return dict(pdu.content)


def _levels(upgrade: _Upgrade) -> dict[str, Any]:
    """The old room's power levels, in the new version's terms."""
    old, version = upgrade.old, upgrade.version
    event = upgrade.state.get(POWER_LEVELS)
    content = _normalised(event.content if event is not None else {}, old.version)
    users = content.setdefault("users", {})
    for user_id in old.power_levels.creators:
        # Whom only the old version made powerful, or who had the power of a room without levels.
        if old.power_levels.user(user_id) in (INFINITE, CREATOR_LEVEL) and user_id not in users:
            users[user_id] = CREATOR_LEVEL
    if version.creators_have_infinite_power:
        content["users"] = {user: level for user, level in users.items() if user not in upgrade.creators}
        events = content.setdefault("events", {})
        least = max(TOMBSTONE_LEVEL_UNDER_CREATORS, content.get("state_default", 0) + 1)
        events["m.room.tombstone"] = max(least, events.get("m.room.tombstone", 0))
    return content


def _working_levels(upgrade: _Upgrade) -> dict[str, Any]:
    """`_levels`, but whoever upgrades may do all that the upgrade does."""
    content = _levels(upgrade)
    if upgrade.version.creators_have_infinite_power:
        return content
    single = [content[name] for name in ("ban", "state_default") if name in content]
    needed = max([CREATOR_LEVEL, *single, *content.get("events", {}).values()])
    users = dict(content["users"])
    if users.get(upgrade.user_id, content.get("users_default", 0)) < needed:
        users[upgrade.user_id] = needed
    return {**content, "users": users}


def _normalised(content: Mapping[str, Any], version: RoomVersion) -> dict[str, Any]:
    """Power levels as integers: before version 10 they may be strings. What is no level is left out."""
    levels = {name: level for name in DEFAULT_LEVELS if (level := parse_level(content.get(name), version)) is not None}
    tables: dict[str, dict[str, int]] = {}
    for name in ("events", "users", "notifications"):
        table = content.get(name)
        if isinstance(table, dict):
            parsed = {key: parse_level(value, version) for key, value in table.items()}
            tables[name] = {key: level for key, level in parsed.items() if level is not None}
    return {**levels, **tables}
