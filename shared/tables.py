"""What the tables of both services have in common: names of constraints, and types of columns."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import DateTime, LargeBinary, Text
from sqlalchemy.dialects.postgresql import JSONB

# Every constraint has a name that code and migrations can rely on.
NAMES: Mapping[str, str] = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}


class ColumnTypes:
    """Mixed into a service's declarative base: what a column is in PostgreSQL, by its annotation."""

    type_annotation_map: ClassVar[Mapping[Any, Any]] = {
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),  # None is NULL, and never JSON's own null
    }
