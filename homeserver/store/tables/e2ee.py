"""End-to-end encryption: keys of devices and users, to-device messages, key backups."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

device_keys = Table(
    "device_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("json", LargeBinary, nullable=False),  # as uploaded, without unsigned
)

# Keys are handed out in the order in which they came: by upload (a log position), then by place in it. Of the `size` keys
# of a row the first `claimed` were; they stay for a while, to be known when they come again.
one_time_key_uploads = Table(
    "one_time_key_uploads",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("algorithm", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("claimed", Integer, nullable=False),
    Column("key_ids", Text, nullable=False),  # a list, as JSON
    Column("json", LargeBinary, nullable=False),  # a line of JSON for each
)

fallback_keys = Table(
    "fallback_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("algorithm", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("json", LargeBinary, nullable=False),
    Column("is_used", Boolean, nullable=False),
)

cross_signing_keys = Table(
    "cross_signing_keys",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("usage", Text, primary_key=True),  # master, self_signing, user_signing
    Column("json", LargeBinary, nullable=False),  # as uploaded, with its own signatures
)

key_signatures = Table(
    "key_signatures",
    metadata,
    # Whose key was signed, and the device id or the public key that names it.
    Column("user_id", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("signer_user_id", Text, primary_key=True),
    Column("signer_key_id", Text, primary_key=True),
    Column("signature", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
)
Index("key_signatures_signer", key_signatures.c.signer_user_id, key_signatures.c.position)

device_list_changes = Table(
    "device_list_changes",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),  # of the newest change of the user's devices or keys
)
Index("device_list_changes_position", device_list_changes.c.position)

remote_device_lists = Table(
    "remote_device_lists",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("stream_id", BigInteger, nullable=False),
    # Something was missed: to be fetched whole before it is used.
    Column("is_stale", Boolean, nullable=False),
)

to_device_messages = Table(
    "to_device_messages",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("json", LargeBinary, nullable=False),  # content, type, sender
)

to_device_transactions = Table(
    "to_device_transactions",
    metadata,
    # A local device and its transaction id, or a remote server ("" as device) and its message id.
    Column("sender", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("txn_id", Text, primary_key=True),
    Column("received_ts_ms", BigInteger, nullable=False),
)
Index("to_device_transactions_age", to_device_transactions.c.received_ts_ms)

key_backups = Table(
    "key_backups",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("algorithm", Text, nullable=False),
    Column("auth_data", LargeBinary, nullable=False),
    Column("etag", BigInteger, nullable=False),
    Column("key_count", BigInteger, nullable=False),
    Column("is_deleted", Boolean, nullable=False),
)

key_backup_sessions = Table(
    "key_backup_sessions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("first_message_index", BigInteger, nullable=False),
    Column("forwarded_count", BigInteger, nullable=False),
    Column("is_verified", Boolean, nullable=False),
    Column("session_data", LargeBinary, nullable=False),
)

dehydrated_devices = Table(
    "dehydrated_devices",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, nullable=False),
    Column("device_data", LargeBinary, nullable=False),
)
