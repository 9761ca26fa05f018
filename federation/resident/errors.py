"""Errors of a resident server, one class for each reason."""

from __future__ import annotations

from homeserver.matrix.errors import MatrixError


class IncompatibleRoomVersion(MatrixError):
    """The other server does not know the room's version.

    Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
    """

    errcode = "M_INCOMPATIBLE_ROOM_VERSION"

    def __init__(self, version: str) -> None:
        super().__init__(f"The room is of version {version}", room_version=version)
