"""When each of our users last began to send with a new session of Megolm.

COMPAT(matrix-rust-sdk 0.18, of which Element X is made): it backs new sessions up after an answer on the connection that it keeps
for encryption. Nothing that comes to its user there is news when they themselves say something, so the key would be in no backup
until the long poll ends; a phone that is set up meanwhile could not read the message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from attrs import define, field

from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.store.log import LogRow

ENCRYPTED: Final = "m.room.encrypted"
MAX_USERS: Final = 20_000
MAX_ROOMS_OF_USER: Final = 100
MAX_SESSION_ID_LENGTH: Final = 100


@define
class _Sent:
    position: int = 0
    sessions: dict[RoomId, str] = field(factory=dict)


@define(eq=False)
class MessageSessions:
    """Follows the log. After a restart each session is new once."""

    server_name: ServerName
    _users: OrderedDict[UserId, _Sent] = field(factory=OrderedDict, init=False)

    def newest(self, user_id: UserId) -> int:
        """The position of the first event of the newest session; 0 where none is known."""
        sent = self._users.get(user_id)
        return sent.position if sent is not None else 0

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            event = row.event
            if event is not None and event.pdu.type == ENCRYPTED and domain_of(event.pdu.sender) == self.server_name:
                session_id = event.pdu.content.get("session_id")
                if isinstance(session_id, str) and len(session_id) <= MAX_SESSION_ID_LENGTH:
                    self._note(event.pdu.sender, event.pdu.room_id, session_id, row.position)

    def _note(self, user_id: UserId, room_id: RoomId, session_id: str, position: int) -> None:
        sent = self._users.setdefault(user_id, _Sent())
        self._users.move_to_end(user_id)
        if len(self._users) > MAX_USERS:
            self._users.popitem(last=False)
        if sent.sessions.get(room_id) == session_id:
            return
        if len(sent.sessions) >= MAX_ROOMS_OF_USER:
            sent.sessions.clear()
        sent.sessions[room_id] = session_id
        sent.position = position
