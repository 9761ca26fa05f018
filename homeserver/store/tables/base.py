"""The one MetaData that every table stands on."""

from __future__ import annotations

from sqlalchemy import MetaData

metadata = MetaData()
