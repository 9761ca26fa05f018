"""What is checked of an event before anything is known of its room: format, signatures, content hash (receipt checks 1 to 3).

Many events at once (a room's state) cost a fetch of keys for each server, not for each event, and are verified in a thread: the
arithmetic lets other threads run.

Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from federation.keys.key_ring import KeyRequest, KeyRing
from homeserver.matrix.errors import BadJson, BadSignature, MatrixError
from homeserver.matrix.hashing import signed_bytes
from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.matrix.pdu import Pdu, parse_pdu, redact_unless_hash_matches
from homeserver.matrix.signing import KeyId, VerifyKey, required_signers, signature_key_ids, verify_signature
from homeserver.matrix.versions import RoomVersion

logger = logging.getLogger(__name__)

# PERF(50 us for each signature): more than these are no work for the reactor's thread.
MAX_ON_REACTOR: Final = 10
CHUNK: Final = 200
MAX_KEYS_TRIED: Final = 5


Keys = Mapping[KeyRequest, VerifyKey]


@frozen
class Refusal:
    """Why something is no valid event. `event_id` is None where not even that can be told."""

    event_id: EventId | None
    error: str


@define(eq=False)
class SignedPdu:
    """An event of the right format, whose signatures are still to be verified. requests: the keys with which each of the
    servers that must have signed it says to have."""

    pdu: Pdu
    requests: Mapping[ServerName, Sequence[KeyRequest]]
    json: dict[str, Any]

    @property
    def wanted_keys(self) -> list[KeyRequest]:
        return [request for requests in self.requests.values() for request in requests]


@define(eq=False)
class PduChecks:
    """Makes Pdus of what other servers send."""

    ring: KeyRing
    reactor: Any

    async def check(self, raw: object, version: RoomVersion, *, room_id: RoomId | None = None) -> Pdu:
        """The event; redacted, if its content hash is wrong. `raw` is left as it is.

        Raises: BadJson, InvalidParam, TooLarge (format; another room than `room_id`), BadSignature.
        """
        given = parse_signed(raw, version, room_id)
        return verify(given, await self.ring.load_verify_keys(given.wanted_keys))

    async def check_many(
        self,
        raws: Iterable[object],
        version: RoomVersion,
        *,
        room_id: RoomId | None = None,
        source: str = "a server",
        only: Container[EventId] | None = None,
    ) -> list[Pdu]:
        """The valid ones, in their order; of the others the log has one line, naming the source. Raises nothing.

        only: events that are not in it are left out, unverified.
        """
        checked = await self.check_each(raws, version, room_id=room_id, only=only)
        refused = [each for each in checked if isinstance(each, Refusal)]
        if refused:
            logger.info("%d of %d events from %s are dropped: %s", len(refused), len(checked), source, refused[0].error)
        return [each for each in checked if isinstance(each, Pdu)]

    async def check_each(
        self,
        raws: Iterable[object],
        version: RoomVersion,
        *,
        room_id: RoomId | None = None,
        only: Container[EventId] | None = None,
    ) -> list[Pdu | Refusal]:
        """As check_many, with a Refusal in the place of each that is not valid. Raises nothing, logs nothing."""
        raws = list(raws)
        number = len(raws)
        checked: list[SignedPdu | Refusal] = []
        for start in range(0, number, CHUNK):
            parsed = await self._apart(number, _parse_all, raws[start : start + CHUNK], version, room_id)
            checked += [
                each for each in parsed if only is None or isinstance(each, Refusal) or each.pdu.event_id in only
            ]
        chunks = [checked[start : start + CHUNK] for start in range(0, len(checked), CHUNK)]
        keys = await self._load_keys(chunks)
        verified: list[Pdu | Refusal] = []
        for chunk in chunks:
            verified += await self._apart(number, _verify_all, chunk, self._keys_of(chunk, keys))
        return verified

    async def _load_keys(self, chunks: Sequence[Sequence[SignedPdu | Refusal]]) -> Keys:
        """The keys that memory lacks, asked for at once: of each the one that is good for longest. Others have their turn
        between chunks."""
        latest: dict[tuple[ServerName, KeyId], KeyRequest] = {}
        for number, chunk in enumerate(chunks):
            if number:
                await self._turn()
            for request in _wanted_keys(chunk):
                known = latest.get((request.server, request.key_id))
                if self.ring.get_verify_key(request) is None and (known is None or _is_later(request, known)):
                    latest[request.server, request.key_id] = request
        return await self.ring.load_verify_keys(list(latest.values())) if latest else {}

    def _keys_of(self, chunk: Sequence[SignedPdu | Refusal], loaded: Keys) -> Keys:
        """What is known now; a key that is good at a later time is good for the events before."""
        found = {(request.server, request.key_id): key for request, key in loaded.items()}
        keys = {}
        for request in _wanted_keys(chunk):
            key = self.ring.get_verify_key(request) or found.get((request.server, request.key_id))
            if key is not None:
                keys[request] = key
        return keys

    async def _turn(self) -> None:
        done: Deferred[None] = Deferred()
        self.reactor.callLater(0, done.callback, None)
        await done

    async def _apart(self, number: int, fn: Callable[..., Any], *args: Any) -> Any:
        """fn(*args), in a thread where there is much of it."""
        if number <= MAX_ON_REACTOR:
            return fn(*args)
        running: Deferred[Any] = deferToThreadPool(self.reactor, self.reactor.getThreadPool(), fn, *args)
        return await running


def parse(raw: object, version: RoomVersion, room_id: RoomId | None = None) -> Pdu:
    """Receipt check 1. Raises: BadJson, InvalidParam, TooLarge."""
    if not isinstance(raw, dict):
        raise BadJson("event: must be an object")
    pdu = parse_pdu(dict(raw), version)
    if room_id is not None and pdu.room_id != room_id:
        raise BadJson("room_id: not the room that this is about")
    if "\0" in pdu.type or "\0" in (pdu.state_key or ""):
        # SPEC: nothing forbids it, but PostgreSQL has no place for it.
        raise BadJson("type, state_key: NUL is not allowed")
    return pdu


def parse_signed(raw: object, version: RoomVersion, room_id: RoomId | None = None) -> SignedPdu:
    """Receipt check 1, and what the next ones need. Raises: BadJson, InvalidParam, TooLarge."""
    pdu = parse(raw, version, room_id)
    assert isinstance(raw, dict)
    json = {name: value for name, value in raw.items() if name != "unsigned"}
    valid_at_ms = pdu.origin_server_ts if version.enforce_key_validity else None
    requests = {
        server: [KeyRequest(server, key_id, valid_at_ms) for key_id in signature_key_ids(json, server)[:MAX_KEYS_TRIED]]
        for server in required_signers(json, version)
    }
    return SignedPdu(pdu, requests, json)


def verify(given: SignedPdu, keys: Keys) -> Pdu:
    """Receipt checks 2 and 3. Raises: BadSignature."""
    verify_some(given, keys, given.requests)
    return redact_unless_hash_matches(given.pdu, given.json)


def verify_some(given: SignedPdu, keys: Keys, servers: Iterable[ServerName]) -> None:
    """Whether the servers signed the event, of those that must have. Raises: BadSignature."""
    message = signed_bytes(given.json, given.pdu.version)
    for server in servers:
        if server in given.requests:
            _check_signed_by(server, given.requests[server], given, message, keys)


def _check_signed_by(
    server: ServerName, requests: Sequence[KeyRequest], given: SignedPdu, message: bytes, keys: Keys
) -> None:
    pdu = given.pdu
    if not requests:
        raise BadSignature(f"{pdu.event_id} is not signed by {server}")
    known = [key for request in requests if (key := keys.get(request)) is not None]
    if not known:
        raise BadSignature(f"No key of {server} is known that is good for {pdu.event_id}")
    for key in known:
        try:
            verify_signature(given.json, server, key, message)
            return
        except BadSignature:
            continue
    raise BadSignature(f"The signature of {server} on {pdu.event_id} is wrong")


def _wanted_keys(chunk: Iterable[SignedPdu | Refusal]) -> Iterator[KeyRequest]:
    return (request for each in chunk if isinstance(each, SignedPdu) for request in each.wanted_keys)


def _is_later(request: KeyRequest, than: KeyRequest) -> bool:
    return than.valid_at_ms is not None and request.valid_at_ms is not None and request.valid_at_ms > than.valid_at_ms


def _parse_all(raws: Sequence[object], version: RoomVersion, room_id: RoomId | None) -> list[SignedPdu | Refusal]:
    parsed: list[SignedPdu | Refusal] = []
    for raw in raws:
        try:
            parsed.append(parse_signed(raw, version, room_id))
        except MatrixError as error:
            parsed.append(Refusal(None, error.error))
    return parsed


def _verify_all(parsed: Sequence[SignedPdu | Refusal], keys: Keys) -> list[Pdu | Refusal]:
    verified: list[Pdu | Refusal] = []
    for each in parsed:
        try:
            verified.append(verify(each, keys) if isinstance(each, SignedPdu) else each)
        except MatrixError as error:
            assert isinstance(each, SignedPdu)
            verified.append(Refusal(each.pdu.event_id, error.error))
    return verified
