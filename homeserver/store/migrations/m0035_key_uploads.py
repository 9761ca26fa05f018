"""One-time keys are stored as they came: a row for the keys of an upload, not one for each key."""

from __future__ import annotations

import json
from itertools import groupby

from sqlalchemy import Connection, text

_CREATE = """
CREATE TABLE one_time_key_uploads (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    position BIGINT NOT NULL,
    part INTEGER NOT NULL,
    size INTEGER NOT NULL,
    claimed INTEGER NOT NULL,
    key_ids TEXT NOT NULL,
    json {blob} NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, position, part)
)
"""
_MOST_KEYS = 100  # in a row
_DEVICES = text("SELECT DISTINCT user_id, device_id FROM one_time_keys")
_KEYS = text(
    # Of each upload the claimed ones first: keys are handed out in their order.
    "SELECT algorithm, position, key_id, json, claimed FROM one_time_keys WHERE user_id = :user AND device_id = :device "
    "ORDER BY algorithm, position, CASE WHEN claimed > 0 THEN 0 ELSE 1 END, place"
)
_INSERT = text(
    "INSERT INTO one_time_key_uploads (user_id, device_id, algorithm, position, part, size, claimed, key_ids, json) "
    "VALUES (:user, :device, :algorithm, :position, :part, :size, :claimed, :key_ids, :json)"
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    connection.exec_driver_sql(_CREATE.format(blob=blob))
    for user, device in connection.execute(_DEVICES).all():
        rows = connection.execute(_KEYS, {"user": user, "device": device}).all()
        for (algorithm, position), of_upload in groupby(rows, key=lambda row: (row.algorithm, row.position)):
            upload = list(of_upload)
            for part, first in enumerate(range(0, len(upload), _MOST_KEYS)):
                keys = upload[first : first + _MOST_KEYS]
                connection.execute(
                    _INSERT,
                    {
                        "user": user,
                        "device": device,
                        "algorithm": algorithm,
                        "position": position,
                        "part": part,
                        "size": len(keys),
                        "claimed": sum(key.claimed > 0 for key in keys),
                        "key_ids": json.dumps([key.key_id for key in keys]),
                        "json": b"\n".join(bytes(key.json) for key in keys),
                    },
                )
    connection.exec_driver_sql("DROP TABLE one_time_keys")
