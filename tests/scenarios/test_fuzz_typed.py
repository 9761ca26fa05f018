"""Requests that are almost right to every endpoint, by several users of the same rooms: never a 5xx, nothing hangs.

What one of them writes is read by the others through every endpoint, and by a server that is started anew on it.
$HEARTH_FUZZ_EXAMPLES sets how many requests are made of each database's server, $HEARTH_FUZZ_SEED which.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest
import requests
from attrs import define, field

from tests.kit.client import Client
from tests.scenarios.hostile_requests import Attempt, Known, RequestMaker
from tests.scenarios.unavailable import is_answer

EXAMPLES = int(os.environ.get("HEARTH_FUZZ_EXAMPLES", "6000"))
SEED = int(os.environ.get("HEARTH_FUZZ_SEED", "1"))
TIMEOUT_S = 120
RENEW_EVERY = 300
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
PASSWORD = "password of the tests"
READS = ("/sync", "/initialSync", "/joined_rooms", "/publicRooms", "/pushrules/", "/devices", "/notifications")
# Pages for people and metrics; and a 401 that asks for more stages of authentication has flows in place of an errcode.
NOT_JSON = ("/docs", "/metrics", "/health", "/auth/{auth_type}/fallback/web", "/static/client/login")


@define
class Fuzz:
    """A server, its users, and what went wrong so far."""

    server: Any
    users: list[Client]
    maker: RequestMaker
    statuses: dict[int, int] = field(factory=dict)
    faults: list[str] = field(factory=list)
    answered_well: set[tuple[str, str]] = field(factory=set)

    def run(self, count: int) -> None:
        for number in range(count):
            if number % RENEW_EVERY == 0:
                self.renew()
            user = self.maker.random.choice(self.users)
            attempt = self.maker.make()
            try:
                response = self._send(user, attempt)
            except requests.RequestException as error:
                self.faults.append(f"{attempt}: {error}")
                continue
            self._look_at(attempt, response)
            if response.status_code == 401 or "/log" in attempt.template or "/password" in attempt.template:
                self._log_in(user)

    def _send(self, user: Client, attempt: Attempt) -> requests.Response:
        return user._session.request(
            attempt.method,
            self.server.url + attempt.target,
            data=attempt.body,
            headers={"Authorization": f"Bearer {user.token}"},
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )

    def _look_at(self, attempt: Attempt, response: requests.Response) -> None:
        self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
        if any(part in attempt.template for part in NOT_JSON) and response.status_code < 500:
            return
        try:
            answer = json.loads(response.content)
        except ValueError:
            self.faults.append(f"{attempt}: {response.status_code}, no JSON: {response.text[:200]}")
            return
        if not is_answer(response.status_code, attempt.method, attempt.template):
            self.faults.append(f"{attempt}: {response.status_code} {answer}")
        elif response.status_code >= 400 and not ("errcode" in answer or "flows" in answer):
            self.faults.append(f"{attempt}: {response.status_code} has no errcode: {answer}")
        elif response.status_code < 400:
            self.answered_well.add((attempt.method, attempt.template))
            self.maker.known.harvest(answer)

    def _log_in(self, user: Client) -> None:
        """Again, where the last request ended the session; who deactivated or was locked is another user from then on."""
        if user.send_raw("GET", "/_matrix/client/v3/account/whoami").status_code == 200:
            return
        name = user.user_id[1:].partition(":")[0]
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": PASSWORD}
        answer = user.send_raw("POST", "/_matrix/client/v3/login", body).json()
        if "access_token" in answer:
            user.token = answer["access_token"]
        else:
            user.token = None
            user.register(f"again{sum(self.statuses.values())}", PASSWORD)
            self.maker.known.add("user_id", user.user_id)

    def read_everything(self) -> None:
        """What a client reads when it starts; all of it has to work, whatever was written."""
        for user in self.users:
            self._log_in(user)
            for path in READS:
                response = user.send_raw("GET", "/_matrix/client/v3" + path, query={"timeout": 0})
                if response.status_code != 200:
                    self.faults.append(f"GET {path} of {user.user_id}: {response.status_code} {response.text[:300]}")
            body = {"lists": {"a": {"ranges": [[0, 50]], "timeline_limit": 5, "required_state": [["*", "*"]]}}}
            response = user.send_raw("POST", SLIDING, body, query={"timeout": 0})
            if response.status_code != 200:
                self.faults.append(f"sliding sync of {user.user_id}: {response.status_code} {response.text[:300]}")

    def renew(self) -> None:
        """A room, devices and users that are as they should be: in time the others are left, banned from or logged out."""
        known = self.maker.known
        for user in self.users:
            self._log_in(user)
        alice, *others = self.users
        room = alice.create_room(
            preset="public_chat", room_version=self.maker.random.choice(("6", "9", "10", "11", "12"))
        )
        for user in others:
            user.join(room)
        events = [alice.send(room, "hello"), others[0].send(room, "hi")]
        thread = {"msgtype": "m.text", "body": "in it", "m.relates_to": {"rel_type": "m.thread", "event_id": events[0]}}
        known.put_first("event_id", [*events, alice.send(room, thread)])
        known.put_first("room_id", [room, alice.create_room()])
        known.put_first("user_id", [user.user_id for user in self.users])
        known.put_first("device_id", [user.get("/account/whoami")["device_id"] for user in self.users])


def start_fuzz(server: Any) -> Fuzz:
    known = Known()
    users = [server.register(name) for name in ("alice", "bob", "carol")]
    users[0].create_room(preset="public_chat", room_alias_name="lobby")
    known.add("alias", "#lobby:test.example")
    known.add("password", PASSWORD)
    document = requests.get(f"{server.url}/docs/openapi.json", timeout=TIMEOUT_S).json()
    return Fuzz(server, users, RequestMaker(document, SEED, known))


@pytest.mark.timeout(24 * 3600)
def test_requests_that_are_almost_right_are_answered(hearth: Any, caplog: pytest.LogCaptureFixture) -> None:
    fuzz = start_fuzz(hearth)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            fuzz.run(EXAMPLES // 2)
            hearth.restart()
            for user in fuzz.users:
                user.base_url = hearth.url
            fuzz.read_everything()
    errors = [
        f"{record.getMessage()}\n{record.exc_text or ''}"
        for record in caplog.records
        if record.levelno >= logging.ERROR
    ]
    assert not fuzz.faults, "\n".join(fuzz.faults[:30])
    assert not errors, "\n".join(errors[:30])
    assert fuzz.statuses[200] > EXAMPLES / 10, "too few requests got past the first checks"
    assert len(fuzz.maker.operations_made) == fuzz.maker.operation_count or EXAMPLES < 2000
