"""End-to-end encryption: its services and endpoints."""

from __future__ import annotations

from attrs import frozen

from homeserver.clientapi.dehydrated_devices import DehydratedDeviceEndpoints
from homeserver.clientapi.key_backup import KeyBackupEndpoints
from homeserver.clientapi.to_device import ToDeviceEndpoints
from homeserver.e2ee.claims import KeyClaims
from homeserver.e2ee.config import EncryptionConfig
from homeserver.e2ee.cross_signing import CrossSigning
from homeserver.e2ee.dehydrated_devices import DehydratedDevices
from homeserver.e2ee.key_backups import KeyBackups
from homeserver.e2ee.ports import NoRemoteKeys, RemoteKeys
from homeserver.e2ee.queries import KeyQueries
from homeserver.e2ee.remote_devices import RemoteDevices
from homeserver.e2ee.to_device import ToDevice
from homeserver.e2ee.uploads import KeyUploads
from homeserver.main.core import Core


@frozen
class EncryptionServices:
    uploads: KeyUploads
    queries: KeyQueries
    claims: KeyClaims
    cross_signing: CrossSigning
    to_device: ToDevice
    remote_devices: RemoteDevices
    endpoints: list[object]

    def use_remote(self, remote: RemoteKeys) -> None:
        """Have keys of users elsewhere fetched so."""
        self.remote_devices.remote = self.queries.remote = self.claims.remote = remote


def build_encryption(core: Core) -> EncryptionServices:
    database, log = core.database, core.log
    remote = NoRemoteKeys()
    remote_devices = RemoteDevices(core.server_name, database, log, remote, core.clock, core.background)
    queries = KeyQueries(core.server_name, database, remote, remote_devices, core.clock)
    checks_signatures = core.config.section(EncryptionConfig).check_key_signatures
    uploads = KeyUploads(database, log, checks_signatures)
    to_device = ToDevice(core.server_name, database, log, core.clock)
    log.follow(remote_devices.on_rows)
    log.follow(queries.on_rows)
    return EncryptionServices(
        uploads,
        queries,
        KeyClaims(core.server_name, log, remote, core.clock),
        CrossSigning(database, log, queries),
        to_device,
        remote_devices,
        [
            ToDeviceEndpoints(to_device),
            KeyBackupEndpoints(KeyBackups(database)),
            DehydratedDeviceEndpoints(DehydratedDevices(database, log, core.clock, to_device, checks_signatures)),
        ],
    )
