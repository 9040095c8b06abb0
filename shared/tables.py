"""What the tables of both services have in common: names of constraints, types of columns, many rows at once."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ARRAY, ColumnElement, DateTime, LargeBinary, Text, any_, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert
from sqlalchemy.orm import DeclarativeBase, QueryableAttribute

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


def any_of(column: QueryableAttribute[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Tell, in a statement, whether a column is one of these values.

    The statement is the same for any number of them, and so is planned once; with `in_` it would be another for each.
    """
    return column == any_(literal(list(values), ARRAY(column.type)))


def bulk_insert(model: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]], **same: Any) -> Insert:
    """Make the statement that inserts rows, one or more, all with the same columns; `same` are expressions for each.

    It too is the same for any number of them. They are inserted in this order.
    """
    columns = model.__table__.c
    # Of one dimension: a column of JSON may hold lists, which are no further one.
    types = {name: ARRAY(columns[name].type, dimensions=1) for name in rows[0]}
    each = [func.unnest(literal([row[name] for row in rows], types[name])) for name in rows[0]]
    return insert(model).from_select([*rows[0], *same], select(*each, *same.values()))
