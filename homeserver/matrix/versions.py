"""Room versions as data: every rule that differs between two versions is one typed field.

Each version is derived from the one before by naming what changed, as the specification's own pages do. Code
that enforces a rule asks for the field by its meaning and never compares version numbers.

Rejected: a class per version with overridden methods (the difference between two versions would be spread
over as many files as there are algorithms).

Spec: rooms#complete-list-of-room-versions
"""

from __future__ import annotations

from enum import Enum

import attrs

from homeserver.matrix.errors import UnsupportedRoomVersion
from homeserver.matrix.limits import MAX_DEPTH_64_BIT, MAX_SAFE_INTEGER


class EventIdFormat(Enum):
    """Where an event's id comes from."""

    SERVER_ASSIGNED = "server_assigned"
    """`$opaque:domain`, the `event_id` field on the wire."""
    HASH_BASE64 = "hash_base64"
    """The reference hash in standard unpadded base64; may hold `/` and `+`. Not on the wire."""
    HASH_URLSAFE_BASE64 = "hash_urlsafe_base64"
    """The reference hash in URL-safe unpadded base64. Not on the wire."""


class StateResolution(Enum):
    """Which state resolution algorithm a room uses."""

    V1 = "v1"
    V2 = "v2"
    V2_1 = "v2.1"
    """v2, but iterative auth starts from an empty state and the conflicted state subgraph is added."""


@attrs.frozen(kw_only=True, eq=False)
class RoomVersion:
    """The rules of one room version. Compared by identity: there is one object per version.

    Spec: rooms
    """

    identifier: str

    # -- event format ----------------------------------------------------------------------------------------
    event_id_format: EventIdFormat
    references_carry_hashes: bool
    """`prev_events` and `auth_events` hold `[event_id, {"sha256": hash}]` and not event ids (v1, v2)."""
    max_depth: int
    """Largest allowed `depth`; an event after one of that depth has the same depth."""
    strict_canonical_json: bool
    """Integers outside +-(2^53 - 1) and floats make an event invalid (v6)."""
    enforce_key_validity: bool
    """A signing key counts only if valid at `origin_server_ts`, and at most 7 days ahead (v5)."""
    redacts_in_content: bool
    """`redacts` of m.room.redaction lies in `content` and not at the top level (v11)."""
    room_id_is_create_hash: bool
    """The room id is the create event's id with `!` for `$`; the create event has no `room_id` (v12)."""

    # -- who created the room --------------------------------------------------------------------------------
    creator_is_sender: bool
    """`content.creator` is not required; the creator is the create event's sender (v11)."""
    creators_have_infinite_power: bool
    """Creators stand above every power level and must not be listed in `users` (v12)."""
    additional_creators: bool
    """`content.additional_creators` of m.room.create names more creators (v12)."""

    # -- authorisation rules ---------------------------------------------------------------------------------
    create_in_auth_events: bool
    """m.room.create must be among `auth_events`; in v12 it must not, as `room_id` implies it."""
    aliases_auth_rule: bool
    """m.room.aliases is allowed if its state_key is the sender's domain, whoever sends it (v1 to v5)."""
    redaction_auth_rule: bool
    """m.room.redaction is authorised by redact level or same domain of the ids (v1, v2).

    Otherwise it is authorised as any event and the same check decides, once redaction and target are both
    there, whether it is applied and sent to clients.
    """
    notifications_power_levels_checked: bool
    """Changes to `notifications` in m.room.power_levels are checked as those to `events` (v6)."""
    knock: bool
    """Join rule and membership `knock` (v7)."""
    restricted_join: bool
    """Join rule `restricted`; the server of `join_authorised_via_users_server` must sign the join (v8)."""
    knock_restricted: bool
    """Join rule `knock_restricted` (v10)."""
    integer_power_levels: bool
    """Power levels must be integers; strings reject the event (v10)."""

    # -- state resolution ------------------------------------------------------------------------------------
    state_resolution: StateResolution

    # -- redaction: what stays -------------------------------------------------------------------------------
    redaction_keeps_legacy_top_level: bool
    """Top-level `origin`, `membership`, `prev_state` (v1 to v10)."""
    redaction_keeps_aliases: bool
    """`aliases` of m.room.aliases (v1 to v5)."""
    redaction_keeps_join_rules_allow: bool
    """`allow` of m.room.join_rules (v8)."""
    redaction_keeps_authorising_user: bool
    """`join_authorised_via_users_server` of m.room.member (v9)."""
    redaction_keeps_create_content: bool
    """All of m.room.create's content; before it is `creator` only (v11)."""
    redaction_keeps_power_levels_invite: bool
    """`invite` of m.room.power_levels (v11)."""
    redaction_keeps_third_party_signed: bool
    """`third_party_invite.signed` of m.room.member (v11)."""
    redaction_keeps_redacts_content: bool
    """`redacts` of m.room.redaction's content (v11)."""

    @property
    def event_id_on_wire(self) -> bool:
        """Whether events carry an `event_id` field in the federation format."""
        return self.event_id_format is EventIdFormat.SERVER_ASSIGNED

    @property
    def string_power_levels(self) -> bool:
        """Whether `"50"` is a power level (v1 to v9)."""
        return not self.integer_power_levels

    @property
    def float_power_levels(self) -> bool:
        """Whether `50.57` is a power level, meaning 50 (v1 to v5)."""
        return not self.strict_canonical_json

    def __repr__(self) -> str:
        return f"RoomVersion({self.identifier!r})"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return room_version, (self.identifier,)


V1 = RoomVersion(
    identifier="1",
    event_id_format=EventIdFormat.SERVER_ASSIGNED,
    references_carry_hashes=True,
    max_depth=MAX_DEPTH_64_BIT,
    strict_canonical_json=False,
    enforce_key_validity=False,
    redacts_in_content=False,
    room_id_is_create_hash=False,
    creator_is_sender=False,
    creators_have_infinite_power=False,
    additional_creators=False,
    create_in_auth_events=True,
    aliases_auth_rule=True,
    redaction_auth_rule=True,
    notifications_power_levels_checked=False,
    knock=False,
    restricted_join=False,
    knock_restricted=False,
    integer_power_levels=False,
    state_resolution=StateResolution.V1,
    redaction_keeps_legacy_top_level=True,
    redaction_keeps_aliases=True,
    redaction_keeps_join_rules_allow=False,
    redaction_keeps_authorising_user=False,
    redaction_keeps_create_content=False,
    redaction_keeps_power_levels_invite=False,
    redaction_keeps_third_party_signed=False,
    redaction_keeps_redacts_content=False,
)
V2 = attrs.evolve(V1, identifier="2", state_resolution=StateResolution.V2)
V3 = attrs.evolve(
    V2,
    identifier="3",
    event_id_format=EventIdFormat.HASH_BASE64,
    references_carry_hashes=False,
    redaction_auth_rule=False,
)
V4 = attrs.evolve(V3, identifier="4", event_id_format=EventIdFormat.HASH_URLSAFE_BASE64)
V5 = attrs.evolve(V4, identifier="5", enforce_key_validity=True)
V6 = attrs.evolve(
    V5,
    identifier="6",
    max_depth=MAX_SAFE_INTEGER,
    strict_canonical_json=True,
    aliases_auth_rule=False,
    notifications_power_levels_checked=True,
    redaction_keeps_aliases=False,
)
V7 = attrs.evolve(V6, identifier="7", knock=True)
V8 = attrs.evolve(V7, identifier="8", restricted_join=True, redaction_keeps_join_rules_allow=True)
V9 = attrs.evolve(V8, identifier="9", redaction_keeps_authorising_user=True)
V10 = attrs.evolve(V9, identifier="10", knock_restricted=True, integer_power_levels=True)
V11 = attrs.evolve(
    V10,
    identifier="11",
    creator_is_sender=True,
    redacts_in_content=True,
    redaction_keeps_legacy_top_level=False,
    redaction_keeps_create_content=True,
    redaction_keeps_power_levels_invite=True,
    redaction_keeps_third_party_signed=True,
    redaction_keeps_redacts_content=True,
)
V12 = attrs.evolve(
    V11,
    identifier="12",
    room_id_is_create_hash=True,
    creators_have_infinite_power=True,
    additional_creators=True,
    create_in_auth_events=False,
    state_resolution=StateResolution.V2_1,
)

ROOM_VERSIONS: dict[str, RoomVersion] = {
    version.identifier: version for version in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)
}


def room_version(identifier: str) -> RoomVersion:
    """The rules of the room version of that name.

    Raises: UnsupportedRoomVersion.

    Spec: rooms#complete-list-of-room-versions
    """
    version = ROOM_VERSIONS.get(identifier)
    if version is None:
        raise UnsupportedRoomVersion(f"Room version {identifier!r} is not supported")
    return version
