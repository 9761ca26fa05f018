"""The authorisation rules for m.room.member events: who may join, invite, leave, kick, ban and knock.

Numbers are those of version 12; the room versions differ only where a flag of RoomVersion is asked.

Spec: rooms/v12#authorisation-rules
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any, Final

import attrs
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from homeserver.matrix.auth_types import third_party_token
from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import PowerLevels, creators_of
from homeserver.matrix.state_map import JOIN_RULES, StateKey, member_key
from homeserver.matrix.versions import RoomVersion

# "Any signature matches any key" is a product that a hostile event could make large; honest ones have one
# of each.
MAX_SIGNATURE_CHECKS: Final = 256


@attrs.frozen
class _Case:
    """What the rules for all memberships look at."""

    event: Pdu
    state: Mapping[StateKey, Pdu]
    create: Pdu
    levels: PowerLevels
    target: str

    @property
    def version(self) -> RoomVersion:
        return self.event.version

    @property
    def sender(self) -> str:
        return self.event.sender

    def membership(self, user_id: str) -> str | None:
        return membership_of(self.state.get(member_key(user_id)))

    def join_rule(self) -> str:
        """The room's join rule; one that this room version does not have never matches."""
        event = self.state.get(JOIN_RULES)
        rule = event.content.get("join_rule") if event is not None else None
        return rule if isinstance(rule, str) else "invite"


def membership_of(event: Pdu | None) -> str | None:
    """The membership that an m.room.member event gives; None if there is none."""
    if event is None:
        return None
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else None


def check_membership(event: Pdu, auth_state: Mapping[StateKey, Pdu], create: Pdu, levels: PowerLevels) -> None:
    """Rule 5, for an event of type m.room.member.

    Raises: AuthRejected.
    Spec: rooms/v12#authorisation-rules
    """
    # 5.1 It is a state event and says a membership.
    if event.state_key is None:
        raise AuthRejected("A membership event has a state key")
    if "membership" not in event.content:
        raise AuthRejected("The membership event says no membership")
    # 5.2 (since v8) The signature of the authorising user's server is checked on receipt, with the other
    # signatures.
    case = _Case(event, auth_state, create, levels, event.state_key)
    match event.content["membership"]:
        case "join":
            _check_join(case)
        case "invite":
            _check_invite(case)
        case "leave":
            _check_leave(case)
        case "ban":
            _check_ban(case)
        case "knock" if event.version.knock:
            _check_knock(case)
        case _:
            # 5.8 Any other membership is unknown.
            raise AuthRejected("The membership is not known in this room version")


def _check_join(case: _Case) -> None:
    # 5.3.1 The creator's first join, directly after the create event.
    if case.event.prev_events == (case.create.event_id,) and case.target in _creators_at_first_join(case.create):
        return
    # 5.3.2 Nobody joins for another.
    if case.sender != case.target:
        raise AuthRejected("Only users themselves can join")
    membership = case.membership(case.sender)
    # 5.3.3 Who is banned stays out.
    if membership == "ban":
        raise AuthRejected(f"{case.sender} is banned from the room")
    rule, version = case.join_rule(), case.version
    # 5.3.6 Anybody may join a public room.
    if rule == "public":
        return
    restricted = _is_restricted(rule, version)
    by_invitation = rule == "invite" or (rule == "knock" and version.knock)
    # 5.3.4, 5.3.5.1 With an invitation, or in the room already (a change of profile).
    if (by_invitation or restricted) and membership in ("invite", "join"):
        return
    if restricted:
        # 5.3.5.2, 5.3.5.3 (since v8) Or because a member who may invite vouches for it.
        _check_authorised_join(case)
        return
    # 5.3.7
    raise AuthRejected(f"{case.sender} may not join: the room's join rule is {rule}")


def _creators_at_first_join(create: Pdu) -> frozenset[str]:
    """Whom rule 5.3.1 lets in: since v11 the creating sender, before that `content.creator`."""
    if create.version.creator_is_sender:
        return frozenset({create.sender})
    return creators_of(create)


def _is_restricted(rule: str, version: RoomVersion) -> bool:
    if rule == "restricted":
        return version.restricted_join
    return rule == "knock_restricted" and version.knock_restricted


def _check_authorised_join(case: _Case) -> None:
    authoriser = case.event.content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str):
        raise AuthRejected(f"{case.sender} is not invited, and no member vouches for the join")
    if case.membership(authoriser) != "join":
        raise AuthRejected(f"{authoriser} vouches for the join but is not in the room")
    if case.levels.user(authoriser) < case.levels.invite:
        raise AuthRejected(f"{authoriser} vouches for the join but may not invite")


def _check_invite(case: _Case) -> None:
    # 5.4.1 An invitation by e-mail address or the like.
    if "third_party_invite" in case.event.content:
        _check_third_party_invite(case)
        return
    # 5.4.2 Only members invite.
    if case.membership(case.sender) != "join":
        raise AuthRejected(f"{case.sender} is not in the room")
    # 5.4.3 Nobody invites those who are in the room, or banned from it.
    if case.membership(case.target) in ("join", "ban"):
        raise AuthRejected(f"{case.target} is in the room or banned from it")
    # 5.4.4, 5.4.5 The invite level.
    power = case.levels.user(case.sender)
    if power < case.levels.invite:
        raise AuthRejected(f"{case.sender} may not invite: needs {case.levels.invite}, has {power}")


def _check_third_party_invite(case: _Case) -> None:
    # 5.4.1.1
    if case.membership(case.target) == "ban":
        raise AuthRejected(f"{case.target} is banned from the room")
    # 5.4.1.2, 5.4.1.3 `signed` says who takes up which invitation.
    token = third_party_token(case.event.content)
    if token is None:
        raise AuthRejected("third_party_invite has no signed token")
    signed: dict[str, Any] = case.event.content["third_party_invite"]["signed"]
    if "mxid" not in signed:
        raise AuthRejected("third_party_invite has no signed mxid")
    # 5.4.1.4
    if signed["mxid"] != case.target:
        raise AuthRejected("third_party_invite is signed for another user")
    # 5.4.1.5
    invite = case.state.get(("m.room.third_party_invite", token))
    if invite is None:
        raise AuthRejected("The room has no third-party invitation with this token")
    # 5.4.1.6
    if invite.sender != case.sender:
        raise AuthRejected("The third-party invitation was made by another user")
    # 5.4.1.7, 5.4.1.8
    if not _has_valid_signature(signed, invite.content):
        raise AuthRejected("third_party_invite is not signed with a key of the invitation")


def _has_valid_signature(signed: dict[str, Any], invite: Mapping[str, Any]) -> bool:
    return next(signing_entries(signed, invite), None) is not None


def signing_entries(signed: Mapping[str, Any], invite: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The entries of an m.room.third_party_invite's content with whose `public_key` this was signed; the content itself may be
    one of them."""
    unsigned = {key: value for key, value in signed.items() if key not in ("signatures", "unsigned")}
    message = canonical_json(unsigned)
    pairs = product(_public_keys(invite), list(_signatures(signed)))
    for (entry, key), signature in islice(pairs, MAX_SIGNATURE_CHECKS):
        if _verifies(key, signature, message):
            yield entry


def _public_keys(invite: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    listed = invite.get("public_keys")
    entries = [invite, *(listed if isinstance(listed, list) else ())]
    for entry in entries:
        key = _decode_base64(entry.get("public_key")) if isinstance(entry, Mapping) else None
        if key is not None:
            yield entry, key


def _signatures(signed: Mapping[str, Any]) -> Iterator[bytes]:
    servers = signed.get("signatures")
    for by_key in servers.values() if isinstance(servers, dict) else ():
        for key_id, value in by_key.items() if isinstance(by_key, dict) else ():
            signature = _decode_base64(value) if key_id.startswith("ed25519:") else None
            if signature is not None:
                yield signature


def _decode_base64(value: object) -> bytes | None:
    """Unpadded base64, also in the URL-safe alphabet, which identity servers use for their keys."""
    if not isinstance(value, str):
        return None
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


def _check_leave(case: _Case) -> None:
    target = case.membership(case.target)
    # 5.5.1 Leaving, and refusing an invitation or (since v7) taking back a knock.
    if case.sender == case.target:
        if target in ("invite", "join") or (target == "knock" and case.version.knock):
            return
        raise AuthRejected(f"{case.sender} is not in the room, so can't leave it")
    # 5.5.2 Only members kick.
    if case.membership(case.sender) != "join":
        raise AuthRejected(f"{case.sender} is not in the room")
    power, levels = case.levels.user(case.sender), case.levels
    # 5.5.3 To lift a ban takes the ban level too.
    if target == "ban" and power < levels.ban:
        raise AuthRejected(f"{case.sender} may not unban: needs {levels.ban}, has {power}")
    # 5.5.4, 5.5.5
    if power < levels.kick:
        raise AuthRejected(f"{case.sender} may not kick: needs {levels.kick}, has {power}")
    if levels.user(case.target) >= power:
        raise AuthRejected(f"{case.target} has as much power as {case.sender}")


def _check_ban(case: _Case) -> None:
    # 5.6.1 Only members ban.
    if case.membership(case.sender) != "join":
        raise AuthRejected(f"{case.sender} is not in the room")
    power, levels = case.levels.user(case.sender), case.levels
    # 5.6.2, 5.6.3
    if power < levels.ban:
        raise AuthRejected(f"{case.sender} may not ban: needs {levels.ban}, has {power}")
    if levels.user(case.target) >= power:
        raise AuthRejected(f"{case.target} has as much power as {case.sender}")


def _check_knock(case: _Case) -> None:
    # 5.7.1 (since v7) The room lets people knock.
    rule = case.join_rule()
    if rule != "knock" and not (rule == "knock_restricted" and case.version.knock_restricted):
        raise AuthRejected(f"Nobody can knock here: the room's join rule is {rule}")
    # 5.7.2 Nobody knocks for another.
    if case.sender != case.target:
        raise AuthRejected("Only users themselves can knock")
    # 5.7.3, 5.7.4 Who is in, invited or banned has no reason to.
    membership = case.membership(case.sender)
    if membership in ("ban", "invite", "join"):
        raise AuthRejected(f"{case.sender} can't knock with the membership {membership}")
