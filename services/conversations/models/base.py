"""The base of all tables, and the values that a column may have as SQL."""

from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from shared.database.orm import NAMES, ColumnTypes


class Base(ColumnTypes, DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(naming_convention=NAMES)


def quoted(values: frozenset[Any] | list[Any]) -> str:
    """Return values as a list of SQL literals, always in the same order."""
    return ", ".join(f"'{value}'" for value in sorted(values))
