"""Keys of devices and users.

Spec: client-server-api#key-management-api
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from homeserver.accounts.interactive_auth import InteractiveAuth, Operation
from homeserver.accounts.requester import Requester
from homeserver.accounts.stages import PASSWORD
from homeserver.e2ee.claims import KeyClaims
from homeserver.e2ee.cross_signing import CrossSigning, KeysChanged, check_keys, is_replacement
from homeserver.e2ee.limits import check_object
from homeserver.e2ee.queries import KeyQueries
from homeserver.e2ee.upload_bodies import read_upload
from homeserver.e2ee.uploads import KeyUploads
from homeserver.e2ee.wanted import parse_claims, parse_queried
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import DeviceId
from homeserver.runtime.http.body import JsonBytes
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.tokens import parse_sync_token

TAG = "End-to-end encryption"
UPLOAD_PATH = "/_matrix/client/v3/keys/device_signing/upload"


class QueryBody(msgspec.Struct):
    device_keys: JsonObject
    timeout: int | None = None


class ClaimBody(msgspec.Struct):
    one_time_keys: JsonObject
    timeout: int | None = None


class ChangesQuery(msgspec.Struct):
    from_: str = msgspec.field(name="from")
    to: str


class KeyEndpoints:
    def __init__(
        self,
        uploads: KeyUploads,
        queries: KeyQueries,
        claims: KeyClaims,
        cross_signing: CrossSigning,
        device_lists: DeviceLists,
        auth: InteractiveAuth,
    ) -> None:
        self._uploads = uploads
        self._queries = queries
        self._claims = claims
        self._cross_signing = cross_signing
        self._device_lists = device_lists
        self._auth = auth

    @endpoint(
        "POST",
        "/_matrix/client/v3/keys/upload",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3keysupload",
        aliases=("/_matrix/client/v3/keys/upload/{device_id}",),
    )
    async def post_upload(self, requester: Requester, body: JsonBytes) -> JsonObject:
        device_id = device_of(requester)
        upload = read_upload(requester.user_id, device_id, body)
        counts = await self._uploads.upload(requester.user_id, device_id, upload)
        return {"one_time_key_counts": {"signed_curve25519": 0, **counts}}

    @endpoint(
        "POST",
        "/_matrix/client/v3/keys/query",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3keysquery",
    )
    async def post_query(self, requester: Requester, body: QueryBody) -> JsonObject:
        found = await self._queries.query(requester.user_id, parse_queried(body.device_keys), body.timeout)
        return found.to_json()

    @endpoint(
        "POST",
        "/_matrix/client/v3/keys/claim",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3keysclaim",
    )
    async def post_claim(self, body: ClaimBody) -> JsonObject:
        keys, failures = await self._claims.claim(parse_claims(body.one_time_keys), body.timeout)
        return {"one_time_keys": keys, "failures": failures}

    @endpoint(
        "GET",
        "/_matrix/client/v3/keys/changes",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3keyschanges",
    )
    async def get_changes(self, requester: Requester, query: ChangesQuery) -> JsonObject:
        since, upto = parse_sync_token(query.from_, "from"), parse_sync_token(query.to, "to")
        changes = await self._device_lists.load_changes(requester.user_id, since.position, upto.position)
        return {"changed": sorted(changes.changed), "left": sorted(changes.left)}

    @endpoint(
        "POST",
        UPLOAD_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3keysdevice_signingupload",
        aliases=("/_matrix/client/unstable/keys/device_signing/upload",),
    )
    async def post_device_signing(self, requester: Requester, body: JsonObject) -> JsonObject:
        is_authenticated = False
        while True:  # once more for each upload that came between
            known = await self._cross_signing.load_keys(requester.user_id)
            keys = check_keys(requester.user_id, body, known)
            if is_replacement(keys, known) and not is_authenticated:
                operation = Operation("POST", UPLOAD_PATH, requester.user_id)
                auth = body.get("auth")
                await self._auth.check(operation, [(PASSWORD,)], None if auth is None else check_object(auth, "auth"))
                is_authenticated = True
            with suppress(KeysChanged):
                await self._cross_signing.upload(requester.user_id, keys, known)
                return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/keys/signatures/upload",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#post_matrixclientv3keyssignaturesupload",
        aliases=("/_matrix/client/unstable/keys/signatures/upload",),
    )
    async def post_signatures(self, requester: Requester, body: JsonObject) -> JsonObject:
        return {"failures": await self._cross_signing.sign(requester.user_id, body)}


def device_of(requester: Requester) -> DeviceId:
    """Raises: InvalidParam for a token without a device, which can have no keys."""
    if requester.device_id is None:
        raise InvalidParam("device_id", "this access token belongs to no device")
    return requester.device_id
