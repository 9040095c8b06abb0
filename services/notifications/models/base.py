"""The base of all tables."""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from shared.database.orm import NAMES, ColumnTypes


class Base(ColumnTypes, DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(naming_convention=NAMES)
