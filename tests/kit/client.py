"""A Matrix client for tests: plain calls that wait, over real HTTP; every response is checked against the specification.

    alice.post("/createRoom", {"preset": "public_chat"})["room_id"]
    alice.put("/rooms/{}/state/{}/{}", {"name": "x"}, at=(room_id, "m.room.name", ""))
    alice.get("/rooms/{}/state", at=[room_id], expect="M_FORBIDDEN")

A status other than 2xx raises Unexpected, unless `expect` names it (403) or its errcode ("M_FORBIDDEN"); then it is what
must come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any
from urllib.parse import quote

import requests

from tests.kit.specification import SPECIFICATION

PREFIX = "/_matrix/client/v3"
TIMEOUT_S = 90
Json = dict[str, Any]


class Unexpected(AssertionError):
    """The server answered otherwise than the test said it would."""

    def __init__(self, request: str, status: int, body: Any, expected: int | str | None) -> None:
        super().__init__(f"{request}: {status} {str(body)[:1000]} (expected {expected or 'success'})")
        self.status = status
        self.body = body


class Client:
    """One user's device, or nobody's as long as it has no token."""

    def __init__(self, base_url: str, token: str | None = None, user_id: str = "") -> None:
        self.base_url = base_url
        self.token = token
        self.user_id = user_id
        self.device_id = ""
        self.next_batch: str | None = None
        self._session = requests.Session()
        self._txn_ids = count(1)

    # -- requests --------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        at: Iterable[str] = (),
        query: Mapping[str, Any] | None = None,
        expect: int | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The decoded answer. `at` fills the path's {} and is percent-encoded; a path without /_ is below /v3.

        `body` is sent as JSON, bytes as they are. Raises: Unexpected, NotAsSpecified.
        """
        path = path.format(*(quote(part, safe="") for part in at))
        path = path if path.startswith(("/_", "/.")) else PREFIX + path
        response = self.send_raw(method, path, body, query=query, headers=headers)
        answer = _decoded(response)
        self.check_answer(method, path, response.status_code, answer)
        errcode = answer.get("errcode") if isinstance(answer, dict) else None
        if expect in (response.status_code, errcode) if expect else response.ok:
            return answer
        raise Unexpected(f"{method} {path}", response.status_code, answer, expect)

    def check_answer(self, method: str, path: str, status: int, answer: Any) -> None:
        """Raises: NotAsSpecified."""
        SPECIFICATION.check_response(method, path, status, answer)

    def send_raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The response as it came, unchecked."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        if body is None and method in ("POST", "PUT"):
            content = {"json": {}}
        return self._session.request(
            method,
            self.base_url + path,
            params={name: _query_value(value) for name, value in (query or {}).items() if value is not None},
            headers={**sent, **(headers or {})},
            timeout=TIMEOUT_S,
            **content,
        )

    def get(self, path: str, **about: Any) -> Any:
        return self.request("GET", path, **about)

    def post(self, path: str, body: Any = None, **about: Any) -> Any:
        return self.request("POST", path, body, **about)

    def put(self, path: str, body: Any = None, **about: Any) -> Any:
        return self.request("PUT", path, body, **about)

    def delete(self, path: str, **about: Any) -> Any:
        return self.request("DELETE", path, **about)

    # -- accounts --------------------------------------------------------------------------------------------------

    def register(self, name: str, password: str, **more: Any) -> Json:
        """Registers by the dummy stage, and is that user from then on."""
        body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}, **more}
        return self._become(self.post("/register", body))

    def register_guest(self) -> Json:
        return self._become(self.post("/register", {}, query={"kind": "guest"}))

    def login(self, name: str, password: str, **more: Any) -> Json:
        identifier = {"type": "m.id.user", "user": name}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
        return self._become(self.post("/login", body))

    def logout(self) -> None:
        self.post("/logout")
        self.token = None

    def another_device(self) -> Client:
        """The same user and token, with a sync of its own."""
        other = type(self)(self.base_url, self.token, self.user_id)
        other.device_id = self.device_id
        return other

    def _become(self, answer: Json) -> Json:
        self.token, self.user_id = answer.get("access_token"), answer["user_id"]
        self.device_id = answer.get("device_id", "")
        return answer

    # -- rooms -----------------------------------------------------------------------------------------------------

    def create_room(self, **body: Any) -> str:
        room_id: str = self.post("/createRoom", body)["room_id"]
        return room_id

    def join(self, room: str, **about: Any) -> Any:
        return self.post("/join/{}", {}, at=[room], **about)

    def leave(self, room_id: str, **about: Any) -> Any:
        return self.post("/rooms/{}/leave", {}, at=[room_id], **about)

    def forget(self, room_id: str, **about: Any) -> Any:
        return self.post("/rooms/{}/forget", {}, at=[room_id], **about)

    def invite(self, room_id: str, user_id: str, **about: Any) -> Any:
        return self.post("/rooms/{}/invite", {"user_id": user_id}, at=[room_id], **about)

    def kick(self, room_id: str, user_id: str, **about: Any) -> Any:
        return self.post("/rooms/{}/kick", {"user_id": user_id}, at=[room_id], **about)

    def ban(self, room_id: str, user_id: str, **about: Any) -> Any:
        return self.post("/rooms/{}/ban", {"user_id": user_id}, at=[room_id], **about)

    def unban(self, room_id: str, user_id: str, **about: Any) -> Any:
        return self.post("/rooms/{}/unban", {"user_id": user_id}, at=[room_id], **about)

    def send(
        self,
        room_id: str,
        content: str | Json,
        event_type: str = "m.room.message",
        txn_id: str | None = None,
        **about: Any,
    ) -> str:
        """The new event's ID ("" where an error is expected). A text is sent as m.text."""
        body = {"msgtype": "m.text", "body": content} if isinstance(content, str) else content
        at = (room_id, event_type, txn_id or f"txn{next(self._txn_ids)}")
        event_id: str = self.put("/rooms/{}/send/{}/{}", body, at=at, **about).get("event_id", "")
        return event_id

    def redact(self, room_id: str, event_id: str, reason: str | None = None, **about: Any) -> str:
        body = {} if reason is None else {"reason": reason}
        at = (room_id, event_id, f"txn{next(self._txn_ids)}")
        redaction_id: str = self.put("/rooms/{}/redact/{}/{}", body, at=at, **about).get("event_id", "")
        return redaction_id

    def set_state(self, room_id: str, event_type: str, content: Json, state_key: str = "", **about: Any) -> str:
        answer = self.put("/rooms/{}/state/{}/{}", content, at=(room_id, event_type, state_key), **about)
        event_id: str = answer.get("event_id", "")
        return event_id

    def get_state(self, room_id: str, event_type: str, state_key: str = "", **about: Any) -> Json:
        content: Json = self.get("/rooms/{}/state/{}/{}", at=(room_id, event_type, state_key), **about)
        return content

    def messages(self, room_id: str, direction: str = "b", **query: Any) -> Json:
        """One page of history; `from_` is the query's `from`."""
        wanted = {name.rstrip("_"): value for name, value in query.items()}
        page: Json = self.get("/rooms/{}/messages", at=[room_id], query={"dir": direction, **wanted})
        return page

    # -- sync ------------------------------------------------------------------------------------------------------

    def sync(self, **query: Any) -> Json:
        """What is new since the last call, at once unless `timeout` (ms) is given. `since=None` starts anew."""
        wanted = {"since": self.next_batch, "timeout": 0, **query}
        answer: Json = self.get("/sync", query=wanted)
        self.next_batch = answer["next_batch"]
        return answer


def timeline(sync: Json, room_id: str) -> list[Json]:
    """The timeline events of a joined room in a /sync answer."""
    room = sync.get("rooms", {}).get("join", {}).get(room_id, {})
    events: list[Json] = room.get("timeline", {}).get("events", [])
    return events


def bodies(events: Iterable[Json]) -> list[str]:
    """The texts of the messages among events."""
    return [event["content"]["body"] for event in events if "body" in event.get("content", {})]


def _decoded(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return {"not JSON": response.text[:500]}


def _query_value(value: Any) -> Any:
    """Booleans as JSON has them, dicts (filters) as JSON."""
    import json

    return json.dumps(value) if isinstance(value, bool | dict) else value
