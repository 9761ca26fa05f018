"""Looks at a server as others see it, and says in plain words what is wrong.

It goes the way that a request takes (name, .well-known, SRV, address, TLS, HTTP, keys) with the code that requests take, so
that what it finds is what happens; but it goes on where a request would give up, and tries every target.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

from attrs import define, field, frozen

from federation.discovery import Discovery, Found, LookupFailed, LookUpSrv, SrvRecord
from federation.keys.documents import MAX_DOCUMENT_BYTES, BadKeyDocument, KeyDocument, parse_key_document
from federation.keys.key_ring import QUERY_PATH, SERVER_PATH
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import ServerName, parse_server_address, parse_server_name
from homeserver.runtime.clock import Clock
from homeserver.runtime.http_client import Fault, HttpAnswer, HttpClient, HttpFailure, Target
from homeserver.runtime.outbound_addresses import AddressPolicy

VERSION_PATH: Final = "/_matrix/federation/v1/version"
TIMEOUT_MS: Final = 15_000
NOTARY_TIMEOUT_MS: Final = 30_000

CLOCK_WARNING_MS: Final = 30_000
CLOCK_WRONG_MS: Final = 10 * 60 * 1000
KEYS_END_SOON_MS: Final = 3600 * 1000
# A notary asks anew when what it has ends before that: our documents are good for a day.
NOTARY_WANTS_MS: Final = 24 * 3600 * 1000 - 5 * 60 * 1000
CERTIFICATE_ENDS_SOON_MS: Final = 14 * 24 * 3600 * 1000
DAY_MS: Final = 24 * 3600 * 1000

_ADVICE: Final = {
    Fault.NAME: "the name needs an A or AAAA record",
    Fault.CONNECT: "does something listen there, and does the firewall let it through?",
    Fault.TIMEOUT: "a firewall may swallow the packets",
    Fault.PROTOCOL: "is it really HTTPS that is spoken there?",
}


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    WRONG = "wrong"


@frozen
class Finding:
    level: Level
    topic: str
    text: str


@frozen
class OwnServer:
    """What the configuration says of this server. `key_ids`: the one that signs, then the old ones."""

    name: ServerName
    federates: bool
    has_federation_listener: bool
    key_ids: tuple[str, ...]
    notaries: tuple[ServerName, ...]


@define(eq=False)
class Doctor:
    """`addresses` is what this server may connect to; `http` itself must be allowed to connect to any address."""

    http: HttpClient
    discovery: Discovery
    look_up_srv: LookUpSrv
    load_addresses: Callable[[str], Awaitable[Sequence[str]]]
    addresses: AddressPolicy
    clock: Clock
    certificate_ends_ms: dict[str, int] = field(factory=dict)
    """By the name that it proved: filled by the connections of `http`."""
    findings: list[Finding] = field(init=False, factory=list)

    async def examine(self, name: str) -> list[Finding]:
        """Another server."""
        try:
            server = parse_server_name(name)
        except MatrixError as error:
            self._note(Level.WRONG, "name", f"{name} is not a server name: {error.error}")
            return self.findings
        await self._examine(server)
        return self.findings

    async def examine_own(self, own: OwnServer) -> list[Finding]:
        """This server: as another, and what its configuration and its notaries say."""
        self._check_configuration(own)
        documents = await self._examine(own.name)
        for document in documents:
            self._check_own_keys(own, document)
        for notary in own.notaries:
            await self._ask_notary(own, notary)
        return self.findings

    def _note(self, level: Level, topic: str, text: str) -> None:
        self.findings.append(Finding(level, topic, text))

    async def _examine(self, server: ServerName) -> list[KeyDocument]:
        found = await self.discovery.find(server)
        address = parse_server_address(server)
        if address.port is None and not address.is_ip_literal:
            await self._check_well_known(address.host)
        await self._check_srv(server, found)
        documents = []
        for target in found.targets:
            document = await self._check_target(server, target)
            if document is not None:
                documents.append(document)
        if len({frozenset(key.key_id for key in document.keys) for document in documents}) > 1:
            self._note(Level.WRONG, "keys", f"the places where {server} can be reached don't give the same keys")
        return documents

    # -- where it is ---------------------------------------------------------------------------------------------------

    async def _check_well_known(self, host: str) -> None:
        known = await self.discovery.load_well_known(host)
        where = f"https://{host}/.well-known/matrix/server"
        if known.server is not None:
            self._note(Level.OK, "delegation", f"{where} names {known.server}")
        elif known.is_absent:
            self._note(Level.NOTE, "delegation", f"there is no {where} ({known.fault}); other servers go on without")
        else:
            self._note(Level.WRONG, "delegation", f"{where} can't be used: {known.fault}")

    async def _check_srv(self, server: ServerName, found: Found) -> None:
        if found.step in ("1", "2", "3.1", "3.2"):
            return
        host = found.targets[0].name
        current = await self._load_srv(f"_matrix-fed._tcp.{host}")
        old = await self._load_srv(f"_matrix._tcp.{host}")
        if current:
            self._note(Level.OK, "DNS", f"_matrix-fed._tcp.{host} leads to {_list(current)}")
        elif old:
            text = (
                f"_matrix._tcp.{host} leads to {_list(old)}; that name is deprecated, call it _matrix-fed._tcp.{host}"
            )
            self._note(Level.WARNING, "DNS", text)
        else:
            self._note(Level.NOTE, "DNS", f"no SRV records of {host}; other servers try port 8448")

    async def _load_srv(self, name: str) -> Sequence[SrvRecord]:
        try:
            return [record for record in await self.look_up_srv(name) if record.target and record.port]
        except LookupFailed as error:
            self._note(Level.WARNING, "DNS", str(error))
            return ()

    async def _check_addresses(self, target: Target) -> bool:
        """Whether there are any."""
        try:
            found = await self.load_addresses(target.host)
        except (OSError, UnicodeError):
            found = []
        if not found:
            self._note(Level.WRONG, "DNS", f"the name {target.host} has no address; {_ADVICE[Fault.NAME]}")
            return False
        refused = [address for address in found if not self.addresses.permits(address)]
        if refused:
            text = f"{target.host} is at {', '.join(refused)}: private or denied, this server does not call it there"
            self._note(Level.WARNING if len(refused) < len(found) else Level.WRONG, "address", text)
        return True

    # -- what is there -------------------------------------------------------------------------------------------------

    async def _check_target(self, server: ServerName, target: Target) -> KeyDocument | None:
        if self.http.policy.proxy is None and not await self._check_addresses(target):
            return None
        asked_ms = self.clock.time_ms()
        version = await self._ask(target, VERSION_PATH)
        if version is None:
            return None
        self._check_certificate(target)
        self._check_clock(server, version, (asked_ms + self.clock.time_ms()) // 2)
        self._check_version(server, target, version)
        answer = await self._ask(target, SERVER_PATH)
        return None if answer is None else self._check_keys(server, target, answer)

    async def _ask(self, target: Target, path: str) -> HttpAnswer | None:
        try:
            return await self.http.request("GET", target, path, timeout_ms=TIMEOUT_MS, max_bytes=MAX_DOCUMENT_BYTES)
        except HttpFailure as error:
            topic = "TLS" if error.fault is Fault.TLS else "connection"
            advice = _ADVICE.get(error.fault)
            if error.fault is Fault.TLS:
                advice = f"the certificate must be for {target.name}, in date, and come with its whole chain"
            self._note(Level.WRONG, topic, f"{error}; {advice}" if advice else str(error))
            return None

    def _check_certificate(self, target: Target) -> None:
        ends_ms = self.certificate_ends_ms.get(target.name)
        if ends_ms is None:
            self._note(Level.WARNING, "TLS", "the certificate was not checked (verify_certificates = false)")
            return
        left_ms = ends_ms - self.clock.time_ms()
        level = Level.OK if left_ms > CERTIFICATE_ENDS_SOON_MS else Level.WARNING
        text = (
            f"{target.host} port {target.port} has a certificate for {target.name}, good for {left_ms // DAY_MS} days"
        )
        self._note(level, "TLS", text)

    def _check_clock(self, server: ServerName, answer: HttpAnswer, at_ms: int) -> None:
        said_ms = _date_ms(answer)
        if said_ms is None:
            self._note(Level.NOTE, "clock", f"{server} does not say what time it has")
            return
        off_ms = said_ms - at_ms
        if abs(off_ms) < CLOCK_WARNING_MS:
            self._note(Level.OK, "clock", f"{server} and this machine have the same time")
            return
        level = Level.WRONG if abs(off_ms) >= CLOCK_WRONG_MS else Level.WARNING
        way = "ahead of" if off_ms > 0 else "behind"
        self._note(level, "clock", f"the clock of {server} is {_span(abs(off_ms))} {way} this machine's; one is wrong")

    def _check_version(self, server: ServerName, target: Target, answer: HttpAnswer) -> None:
        about = _json(answer)
        software = about.get("server") if answer.status == 200 else None
        if isinstance(software, dict) and isinstance(software.get("name"), str):
            self._note(Level.OK, "version", f"{server} runs {software['name']} {software.get('version', '')}".strip())
            return
        self._note(
            Level.WRONG, "connection", f"{_asked(target, VERSION_PATH)} answers {_shown(answer)}; {_NOT_PASSED_ON}"
        )

    def _check_keys(self, server: ServerName, target: Target, answer: HttpAnswer) -> KeyDocument | None:
        where = _asked(target, SERVER_PATH)
        if answer.status != 200 or not _json(answer):
            self._note(Level.WRONG, "keys", f"{where} answers {_shown(answer)}; {_NOT_PASSED_ON}")
            return None
        json, now_ms = _json(answer), self.clock.time_ms()
        name = json.get("server_name")
        if isinstance(name, str) and name != server:
            self._note(Level.WRONG, "keys", f"{where}: that server is called {name}, not {server} (server_name)")
            return None
        try:
            document = parse_key_document(json, server, now_ms)
        except BadKeyDocument as error:
            self._note(Level.WRONG, "keys", f"{where}: {error.error}")
            return None
        self._check_validity(server, document, now_ms)
        return document

    def _check_validity(self, server: ServerName, document: KeyDocument, now_ms: int) -> None:
        names = ", ".join(key.key_id for key in document.keys if not key.is_old)
        left_ms = document.valid_until_ts_ms - now_ms
        if left_ms <= 0:
            text = f"the keys of {server} ended {_span(-left_ms)} ago: its clock is wrong, or it gives an old document"
            self._note(Level.WRONG, "keys", text)
            return
        level = Level.OK if left_ms > KEYS_END_SOON_MS else Level.WARNING
        self._note(level, "keys", f"{server} signs with {names}, good for {_span(left_ms)}")
        if any(key.is_old and key.valid_until_ts_ms > now_ms for key in document.keys):
            self._note(Level.WARNING, "keys", f"{server} calls a key old that ends in the future only")

    # -- this server ---------------------------------------------------------------------------------------------------

    def _check_configuration(self, own: OwnServer) -> None:
        if not own.federates:
            self._note(Level.WRONG, "configuration", "[federation] enabled = false: this server talks to no other")
        if not own.has_federation_listener:
            text = 'no [[listeners]] has "federation" among its resources, so nothing answers other servers'
            self._note(Level.WRONG, "configuration", text)
        if own.name.partition(":")[0] in ("localhost", "127.0.0.1", "[::1]"):
            text = f"server_name is {own.name}: only servers on this machine can find it. It can't be changed later"
            self._note(Level.WARNING, "configuration", text)

    def _check_own_keys(self, own: OwnServer, document: KeyDocument) -> None:
        published = {key.key_id for key in document.keys if not key.is_old}
        if own.key_ids and own.key_ids[0] not in published:
            text = f"the key file's first key is {own.key_ids[0]}, but {', '.join(sorted(published))} is published: "
            text += "restart the server, or somebody else answers in its name"
            self._note(Level.WRONG, "keys", text)

    async def _ask_notary(self, own: OwnServer, notary: ServerName) -> None:
        """A notary fetches our keys: so it is how the rest of the world sees us."""
        until_ms = self.clock.time_ms() + NOTARY_WANTS_MS
        path = f"{QUERY_PATH}/{own.name}?minimum_valid_until_ts={until_ms}"
        try:
            [target, *_] = (await self.discovery.find(notary)).targets
            asked_ms = self.clock.time_ms()
            answer = await self.http.request(
                "GET", target, path, timeout_ms=NOTARY_TIMEOUT_MS, max_bytes=MAX_DOCUMENT_BYTES
            )
        except (HttpFailure, MatrixError) as error:
            self._note(Level.NOTE, "from outside", f"{notary} can't be asked how it sees this server: {error}")
            return
        self._check_clock(notary, answer, (asked_ms + self.clock.time_ms()) // 2)
        listed = _json(answer).get("server_keys")
        documents = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        until = max((_number(each.get("valid_until_ts")) for each in documents), default=0)
        if until >= until_ms:
            self._note(Level.OK, "from outside", f"{notary} reaches this server")
        elif until:
            text = f"{notary} has old keys of this server and can't get new ones: it does not reach it now"
            self._note(Level.WRONG, "from outside", text)
        else:
            self._note(Level.WRONG, "from outside", f"{notary} does not reach this server")


_NOT_PASSED_ON: Final = "does the reverse proxy pass /_matrix on to the homeserver?"


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong."""
    return all(finding.level is not Level.WRONG for finding in findings)


# -- words ---------------------------------------------------------------------------------------------------------------


def _asked(target: Target, path: str) -> str:
    return f"https://{target.host}:{target.port}{path}"


def _json(answer: HttpAnswer) -> dict[str, Any]:
    try:
        body = decode_json(answer.body)
    except MatrixError:
        return {}
    return body if isinstance(body, dict) else {}


def _shown(answer: HttpAnswer) -> str:
    """An answer that is not what it should be."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    return f"{answer.status} ({kind[:50]})" if kind.isprintable() and kind else str(answer.status)


def _date_ms(answer: HttpAnswer) -> int | None:
    try:
        return int(parsedate_to_datetime(answer.headers.get("date", "")).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _list(records: Sequence[SrvRecord]) -> str:
    return ", ".join(f"{record.target} port {record.port}" for record in records)


def _span(span_ms: int) -> str:
    for unit_ms, unit in ((DAY_MS, "days"), (3600 * 1000, "hours"), (60 * 1000, "minutes")):
        if span_ms >= 2 * unit_ms:
            return f"{span_ms // unit_ms} {unit}"
    return f"{span_ms // 1000} seconds"
