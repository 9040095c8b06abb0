"""SQLAlchemy helpers of both services: constraint names, column types, statements for many rows."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ARRAY, ColumnElement, DateTime, LargeBinary, Text, any_, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert
from sqlalchemy.orm import DeclarativeBase, QueryableAttribute

# Names of constraints, on which code and migrations rely.
NAMES: Mapping[str, str] = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}


class ColumnTypes:
    """Mixin for a service's declarative base: PostgreSQL types of columns by their annotation."""

    type_annotation_map: ClassVar[Mapping[Any, Any]] = {
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),  # None is SQL's NULL, not JSON's null
    }


def any_of(column: QueryableAttribute[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Return the SQL condition that a column has one of the values.

    The statement is the same for any number of values, so it is planned once. With `in_` each number would differ.
    """
    return column == any_(literal(list(values), ARRAY(column.type)))


def bulk_insert(model: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]], **shared: Any) -> Insert:
    """Return a statement that inserts one or more rows in order, all with the same columns.

    `shared` are expressions for further columns, equal in all rows. The statement is the same for any number of rows.
    """
    columns = model.__table__.c
    # One dimension: lists in a JSON column are not another one.
    types = {name: ARRAY(columns[name].type, dimensions=1) for name in rows[0]}
    values = [func.unnest(literal([row[name] for row in rows], types[name])) for name in rows[0]]
    return insert(model).from_select([*rows[0], *shared], select(*values, *shared.values()))
