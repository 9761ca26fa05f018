"""All tables, on one MetaData. Importing this package registers every one of them."""

from homeserver.store.tables import (
    accounts,
    delayed_events,
    e2ee,
    federated_rooms,
    federation,
    log,
    media,
    openid,
    outbound,
    push,
    receiving,
    relations,
    rooms,
    search,
    sticky,
    threads,
    upkeep,
)
from homeserver.store.tables.base import metadata

__all__ = [
    "accounts",
    "delayed_events",
    "e2ee",
    "federated_rooms",
    "federation",
    "log",
    "media",
    "metadata",
    "openid",
    "outbound",
    "push",
    "receiving",
    "relations",
    "rooms",
    "search",
    "sticky",
    "threads",
    "upkeep",
]
