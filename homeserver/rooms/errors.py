"""Errors of the room services, one class for each reason.

MatrixError
  InvalidRoomState, RoomInUse, BadAlias            400, creating rooms and naming them
  DuplicateAnnotation                              400
  UnableToAuthoriseJoin, UnableToGrantJoin         400, restricted joins that another server might settle
  AliasTaken                                       409
  StateNotFull                                     503, a room that was joined a moment ago
  HistoryUnreachable, IdentityServerFault          502
  Forbidden
    BadState, InviteBlocked, GuestsForbidden, IdentityServerNotTrusted
"""

from __future__ import annotations

from homeserver.matrix.errors import Conflict, Forbidden, MatrixError


class InvalidRoomState(MatrixError):
    """A new room's state, as it was asked for, does not pass the authorisation rules."""

    errcode = "M_INVALID_ROOM_STATE"


class RoomInUse(MatrixError):
    """The alias for a new room names another room."""

    errcode = "M_ROOM_IN_USE"


class BadAlias(MatrixError):
    """An alias in m.room.canonical_alias does not lead to the room."""

    errcode = "M_BAD_ALIAS"


class DuplicateAnnotation(MatrixError):
    """The user has annotated the event in the same way already.

    Spec: client-server-api#avoiding-duplicate-annotations
    """

    errcode = "M_DUPLICATE_ANNOTATION"


class AliasTaken(Conflict):
    """The alias exists already.

    Spec: client-server-api#put_matrixclientv3directoryroomroomalias
    """


class StateNotFull(MatrixError):
    """Who is in the room is not known yet: it was joined a moment ago, and its members are still on their way."""

    status = 503

    def __init__(self) -> None:
        super().__init__("The members of this room are not all known yet: try again in a while")


class HistoryUnreachable(MatrixError):
    """There is more history, of which this server has none, and no server that may have it answers."""

    status = 502

    def __init__(self) -> None:
        super().__init__("The servers that may have older messages of this room don't answer: try again in a while")


class UnableToAuthoriseJoin(MatrixError):
    """This server can't tell whether the conditions of a restricted join are met.

    Spec: server-server-api#restricted-rooms
    """

    errcode = "M_UNABLE_TO_AUTHORISE_JOIN"


class UnableToGrantJoin(MatrixError):
    """The conditions are met, but no user of this server has the power to let somebody in.

    Spec: server-server-api#restricted-rooms
    """

    errcode = "M_UNABLE_TO_GRANT_JOIN"


class BadState(Forbidden):
    """The membership can't go from what it is to what was asked for."""

    errcode = "M_BAD_STATE"


class InviteBlocked(Forbidden):
    """The invited user takes no invites, or none of this inviter.

    Spec: client-server-api#invite-permission
    """

    errcode = "M_INVITE_BLOCKED"

    def __init__(self) -> None:
        super().__init__("This user does not take the invite")


class GuestsForbidden(Forbidden):
    errcode = "M_GUEST_ACCESS_FORBIDDEN"

    def __init__(self) -> None:
        super().__init__("Guests may not join this room")


class IdentityServerNotTrusted(Forbidden):
    """Invites by e-mail address and the like go through an identity server, and this server does not ask that one."""

    errcode = "M_SERVER_NOT_TRUSTED"

    def __init__(self, server: str) -> None:
        super().__init__(f"This server does not ask the identity server {server}: invite by user ID")


class IdentityServerFault(MatrixError):
    """An identity server gives no answer, or none that can be used: always the same words, whatever stands at its address."""

    status = 502

    def __init__(self, server: str) -> None:
        super().__init__(f"The identity server {server} gives no usable answer")
