"""The keys of other servers, from memory, the database, the servers themselves, or notaries, in this order.

A server that does not answer holds nobody up for long: after a short while, or once it is known that it fails, all notaries
are asked beside it, and whoever is first is heard.

A key is wanted for a time: when the signature was made (events), or now (requests). One in use is good until the
`valid_until_ts` of its newest document, an old one until its `expired_ts`; what memory and database hold is enough when it is
good for that time, and otherwise the server is asked again. How often, is bounded for each server, whatever key ids strangers
come up with.

Notaries are believed only for what the server itself signed: their own signature is checked as well, but a notary can't make
keys up, it can at most withhold newer ones.

Spec: server-server-api#retrieving-server-keys
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from attrs import define, field, frozen

from federation.bounded import Bounded
from federation.client import FederationClient
from federation.errors import RemoteRefused, RemoteUnreachable
from federation.inbound.slots import Slots
from federation.keys.documents import MAX_DOCUMENT_BYTES, BadKeyDocument, KeyDocument, parse_key_document
from federation.keys.own import OwnKeys
from federation.xmatrix import Unauthorized
from homeserver.matrix.errors import BadSignature
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import MAX_KEY_VALIDITY_AHEAD_MS, KeyId, VerifyKey, signature_key_ids, verify_json
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import Contest, SingleFlight, gather, within
from homeserver.runtime.db import Database
from homeserver.store.server_keys import ServerKeyRow, load_server_keys, save_key_documents

logger = logging.getLogger(__name__)

KEYS_KEPT: Final = 20_000
FETCH_TIMEOUT_MS: Final = 10_000
# For the servers themselves, before notaries are asked too.
HEAD_START_MS: Final = 2_000
MAX_FETCHES: Final = 20
MAX_SIGNATURES_TRIED: Final = 10
# A server is not asked for its keys more often than this, whether it answered or not.
ASK_AGAIN_MS: Final = 10_000
ASK_FAILED_AGAIN_MS: Final = 60_000
NOTARY_BATCH: Final = 100

SERVER_PATH: Final = "/_matrix/key/v2/server"
QUERY_PATH: Final = "/_matrix/key/v2/query"


@frozen
class KeyRequest:
    """A key, good at a time; None is for any time (room versions before 5 don't ask)."""

    server: ServerName
    key_id: KeyId
    valid_at_ms: int | None


@define
class _Found:
    """Documents of one search, which are saved together; those that come later each by itself."""

    documents: list[KeyDocument] = field(factory=list)
    is_over: bool = False


_numbers = itertools.count(1)
Rows = dict[tuple[str, str], ServerKeyRow]


@define(eq=False)
class KeyRing:
    """Verifies what other servers signed."""

    client: FederationClient
    own: OwnKeys
    database: Database
    clock: Clock
    notaries: Sequence[ServerName] = ()
    _kept: Bounded[tuple[str, str], ServerKeyRow] = field(init=False, factory=lambda: Bounded(KEYS_KEPT))
    _ask_after_ms: Bounded[str, int] = field(init=False, factory=lambda: Bounded(KEYS_KEPT))
    _fetching: SingleFlight[KeyDocument | None] = field(init=False, factory=SingleFlight)
    # Which batch for a notary asks about a server (_place), while it runs.
    _asked_in: dict[str, int] = field(init=False, factory=dict)
    _batches: SingleFlight[None] = field(init=False, factory=SingleFlight)
    # Events may name any number of slow servers: who calls us, and waits to be known, must not stand behind those.
    _slots: Slots = field(init=False, factory=lambda: Slots(MAX_FETCHES, MAX_FETCHES // 2))

    async def check_json(self, server: ServerName, json: dict[str, Any], *, valid_at_ms: int | None) -> None:
        """Returns if a key of the server, good at that time, signed the object.

        Raises: Unauthorized.
        """
        key_ids = signature_key_ids(json, server)[:MAX_SIGNATURES_TRIED]
        if not key_ids:
            raise Unauthorized(f"Not signed by {server}")
        keys = await self.load_verify_keys([KeyRequest(server, key_id, valid_at_ms) for key_id in key_ids])
        if not keys:
            raise Unauthorized(f"No key of {server} is known with which this is signed ({', '.join(key_ids)})")
        for key in keys.values():
            try:
                verify_json(json, server, key)
                return
            except BadSignature:
                continue
        raise Unauthorized(f"The signature of {server} is wrong")

    def get_verify_key(self, wanted: KeyRequest) -> VerifyKey | None:
        """The key, if it is in memory."""
        if wanted.server == self.own.server_name:
            return self.own.get_verify_key(wanted.key_id, wanted.valid_at_ms)
        row = self._kept.get((wanted.server, wanted.key_id))
        return VerifyKey(wanted.key_id, row.public_key) if row is not None and is_good(row, wanted) else None

    async def load_verify_keys(
        self, wanted: Collection[KeyRequest], *, patient: bool = False
    ) -> Mapping[KeyRequest, VerifyKey]:
        """Those that can be had; each server is asked once at most. Never raises for a server that fails.

        `patient`: ask servers, too, that failed lately (they call us, so they must be there).
        """
        found = {request: key for request in wanted if (key := self.get_verify_key(request)) is not None}
        latest_ms = self.clock.time_ms() + MAX_KEY_VALIDITY_AHEAD_MS
        missing = [
            request
            for request in dict.fromkeys(wanted)
            if request not in found
            and request.server != self.own.server_name
            and (request.valid_at_ms is None or request.valid_at_ms <= latest_ms)
        ]
        if not missing:
            return found
        stored = await self.database.read(load_server_keys, {(each.server, each.key_id) for each in missing})
        rows: Rows = {}
        self._learn(stored, rows)
        await self._fetch_missing(missing, rows, patient)
        self._unmet(missing, rows)
        found.update(_fitting(missing, rows))
        return found

    async def fetch_document(self, server: ServerName, *, patient: bool = False) -> KeyDocument | None:
        """The server's own document, now; None when it gives none, or was asked a moment ago.

        Its keys are in memory then, but not saved.
        """
        if not self._fetching.is_running(server) and self.clock.time_ms() < (self._ask_after_ms.get(server) or 0):
            return None
        return await self._fetching.do(server, lambda: self._fetch_direct(server, patient))

    # -- fetching ------------------------------------------------------------------------------------------------------

    async def _fetch_missing(self, missing: Sequence[KeyRequest], rows: Rows, patient: bool) -> None:
        unmet = self._unmet(missing, rows)

        def is_enough() -> bool:
            nonlocal unmet
            unmet = self._unmet(unmet, rows)
            return not unmet

        asking, found = Contest(is_enough), _Found()
        for server in dict.fromkeys(request.server for request in unmet):
            asking.add(self._fetch_from_itself(server, patient, found))
        with suppress(TimeoutError):
            await within(self.clock, HEAD_START_MS, asking.wait())
        for notary in self.notaries:
            wanted = [request for request in unmet if request.server != notary]
            if wanted:
                asking.add(self._fetch_from(notary, wanted))
        await asking.wait()
        found.is_over = True
        await self._accept(found.documents)

    async def _fetch_from_itself(self, server: ServerName, patient: bool, found: _Found) -> None:
        document = await self.fetch_document(server, patient=patient)
        if document is not None and found.is_over:
            await self._accept([document])
        elif document is not None:
            found.documents.append(document)

    async def _fetch_direct(self, server: ServerName, patient: bool) -> KeyDocument | None:
        # A patient caller was called by it a moment ago, so it can't be long.
        failed_again_ms = ASK_AGAIN_MS if patient else ASK_FAILED_AGAIN_MS
        self._ask_after_ms.put(server, self.clock.time_ms() + failed_again_ms)
        try:
            async with self._slots.hold("callers" if patient else "others"):
                json = await self.client.get(
                    server,
                    SERVER_PATH,
                    timeout_ms=FETCH_TIMEOUT_MS,
                    max_bytes=MAX_DOCUMENT_BYTES,
                    patient=patient,
                    signed=False,
                )
            document = parse_key_document(json, server, self.clock.time_ms())
        except (RemoteUnreachable, RemoteRefused, BadKeyDocument) as error:
            logger.info("No keys from %s: %s", server, error)
            return None
        self._ask_after_ms.put(server, self.clock.time_ms() + ASK_AGAIN_MS)
        self._learn(document.keys, {})
        return document

    async def _accept(self, documents: Sequence[KeyDocument]) -> None:
        """Have their keys in memory and in the database."""
        if not documents:
            return
        now_ms = self.clock.time_ms()
        keys = [key for document in documents for key in document.keys]
        self._learn(keys, {})
        await self.database.run(save_key_documents, [document.to_row(now_ms) for document in documents], keys)

    def _learn(self, keys: Iterable[ServerKeyRow], rows: Rows) -> None:
        """In memory the same holds as in the database: what is newer stays, and what is old stays old."""
        for key in keys:
            place = (key.server, key.key_id)
            kept = rows.get(place) or self._kept.get(place)
            if kept is None or is_newer(key, kept):
                kept = key
            rows[place] = kept
            self._kept.put(place, kept)

    def _unmet(self, wanted: Sequence[KeyRequest], rows: Rows) -> list[KeyRequest]:
        """Those that `rows` has no good key for. What others learnt while we waited is in memory, and comes to `rows` first."""
        self._learn(filter(None, (self._kept.get((request.server, request.key_id)) for request in wanted)), rows)
        met = _fitting(wanted, rows)
        return [request for request in wanted if request not in met]

    # -- notaries ------------------------------------------------------------------------------------------------------

    async def _fetch_from(self, notary: ServerName, wanted: Sequence[KeyRequest]) -> None:
        """Learn what a notary knows, as far as it is proven; with somebody else, where they ask for the same already."""
        asked = {_place(notary, request.server): request for request in wanted}
        numbers = {number for place in asked if (number := self._asked_in.get(place)) is not None}
        now_ms = self.clock.time_ms()
        new = [place for place in asked if place not in self._asked_in]
        new = [place for place in new if now_ms >= (self._ask_after_ms.get(place) or 0)]
        if new:
            number = next(_numbers)
            self._asked_in.update(dict.fromkeys(new, number))
            numbers.add(number)
            servers = {asked[place].server for place in new}
            requests = [request for request in wanted if request.server in servers]
            await self._batches.do(number, lambda: self._ask_in_batches(notary, requests, new))
        await gather(self._batches.do(number, _nothing) for number in numbers if self._batches.is_running(number))

    async def _ask_in_batches(self, notary: ServerName, wanted: Sequence[KeyRequest], places: Sequence[str]) -> None:
        after_ms = self.clock.time_ms() + ASK_FAILED_AGAIN_MS
        for place in places:
            self._ask_after_ms.put(place, after_ms)
        try:
            for start in range(0, len(wanted), NOTARY_BATCH):
                await self._accept(await self._ask_notary(notary, wanted[start : start + NOTARY_BATCH]))
        finally:
            for place in places:
                del self._asked_in[place]

    async def _ask_notary(self, notary: ServerName, wanted: Sequence[KeyRequest]) -> list[KeyDocument]:
        now_ms = self.clock.time_ms()
        asked: dict[str, dict[str, Any]] = {}
        for request in wanted:
            minimum = {"minimum_valid_until_ts": now_ms if request.valid_at_ms is None else request.valid_at_ms}
            asked.setdefault(request.server, {})[request.key_id] = minimum
        try:
            answer = await self.client.post(
                notary,
                QUERY_PATH,
                {"server_keys": asked},
                timeout_ms=FETCH_TIMEOUT_MS * 2,
                max_bytes=MAX_DOCUMENT_BYTES * (len(asked) + 1),
                signed=False,
            )
        except (RemoteUnreachable, RemoteRefused) as error:
            logger.info("No keys from the notary %s: %s", notary, error)
            return []
        listed = answer.get("server_keys") if isinstance(answer, dict) else None
        documents = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        fitting = [each for each in documents if isinstance(name := each.get("server_name"), str) and name in asked]
        return await self._believed(notary, fitting[: 2 * len(asked)])

    async def _believed(self, notary: ServerName, documents: list[dict[str, Any]]) -> list[KeyDocument]:
        key_ids = {key_id for each in documents for key_id in signature_key_ids(each, notary)[:MAX_SIGNATURES_TRIED]}
        now_ms = self.clock.time_ms()
        wanted = [KeyRequest(notary, key_id, now_ms) for key_id in sorted(key_ids)[:MAX_SIGNATURES_TRIED]]
        keys = await self._load_notary_keys(notary, wanted)
        believed = []
        for json in documents:
            try:
                _check_signed_by(notary, json, keys)
                believed.append(parse_key_document(json, ServerName(json["server_name"]), now_ms))
            except (BadSignature, BadKeyDocument) as error:
                logger.warning("The notary %s gives a key document that is not believed: %s", notary, error)
        return believed

    async def _load_notary_keys(self, notary: ServerName, wanted: Sequence[KeyRequest]) -> list[VerifyKey]:
        """From the notary itself only: it can't vouch for itself."""
        rows: Rows = {}
        self._learn(await self.database.read(load_server_keys, {(each.server, each.key_id) for each in wanted}), rows)
        if self._unmet(wanted, rows):
            document = await self.fetch_document(notary)
            await self._accept([document] if document is not None else [])
            self._unmet(wanted, rows)
        return list(_fitting(wanted, rows).values())


def is_good(row: ServerKeyRow, wanted: KeyRequest) -> bool:
    """Whether the key is good at the wanted time."""
    return wanted.valid_at_ms is None or wanted.valid_at_ms <= row.valid_until_ts_ms


def is_newer(key: ServerKeyRow, than: ServerKeyRow) -> bool:
    return key.is_old or (not than.is_old and key.valid_until_ts_ms > than.valid_until_ts_ms)


def _fitting(wanted: Iterable[KeyRequest], rows: Rows) -> dict[KeyRequest, VerifyKey]:
    good = ((request, rows.get((request.server, request.key_id))) for request in wanted)
    return {
        request: VerifyKey(request.key_id, row.public_key)
        for request, row in good
        if row is not None and is_good(row, request)
    }


def _place(notary: ServerName, server: ServerName) -> str:
    return f"{notary} {server}"  # no server name holds a space


async def _nothing() -> None:
    """What nobody runs: it is joined only while another runs."""


def _check_signed_by(notary: ServerName, json: dict[str, Any], keys: Sequence[VerifyKey]) -> None:
    """Raises: BadSignature."""
    signed_with = signature_key_ids(json, notary)
    key = next((key for key in keys if key.key_id in signed_with), None)
    if key is None:
        raise BadSignature(f"not signed by {notary} with a key of its")
    verify_json(json, notary, key)
