"""Record every statement sent to a database, through SQLAlchemy or directly through the driver."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import UUID

from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

_KINDS = {UUID: "uuid", datetime: "timestamptz"}
_OWN = ("typeinfo_tree", "'jit'")  # the driver's own queries about types that are new to a connection
_AROUND = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")


class Statement(NamedTuple):
    """A statement and its values."""

    query: str
    values: tuple[Any, ...]

    @property
    def alone(self) -> str:
        """The statement with its values inlined."""
        return re.sub(r"\$(\d+)", lambda found: _literal(self.values[int(found[1]) - 1]), self.query)


def without_transactions(recorded: list[Statement]) -> list[Statement]:
    """Return the statements that do not begin or end transactions."""
    return [statement for statement in recorded if not statement.query.startswith(_AROUND)]


def _literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"array[{', '.join(map(_literal, value))}]"
    if value is None or isinstance(value, int | float):
        return "null" if value is None else str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    kind = next((name for python_type, name in _KINDS.items() if isinstance(value, python_type)), "text")
    quoted = str(value).replace("'", "''")
    return f"'{quoted}'::{kind}"


@asynccontextmanager
async def statements(engine: AsyncEngine) -> AsyncIterator[list[Statement]]:
    """Record the statements of all connections in use while the context is open, transaction control included."""
    recorded: list[Statement] = []
    connections = set()

    announced: list[str] = []
    fetch = PreparedStatement.fetch

    def through_sqlalchemy(_: object, __: object, query: str, values: Any, *___: object) -> None:
        recorded.append(Statement(query, tuple(values)))
        announced.append(query)

    async def prepared(self: Any, *values: Any, **more: Any) -> Any:  # the driver's loggers do not see these
        if self.get_query() in announced:
            announced.remove(self.get_query())
        elif self._connection in connections:
            recorded.append(Statement(self.get_query(), values))
        return await fetch(self, *values, **more)

    def straight(logged: Any) -> None:
        if not any(words in logged.query for words in _OWN):
            recorded.append(Statement(logged.query, tuple(logged.args)))

    def borrowed(_: object, record: Any, __: object) -> None:
        connections.add(record.driver_connection)
        record.driver_connection.add_query_logger(straight)

    event.listen(engine.sync_engine, "before_cursor_execute", through_sqlalchemy)
    event.listen(engine.sync_engine, "checkout", borrowed)
    pool: Any = engine.pool
    pool.lend = lambda: None  # check out every connection
    try:
        with patch.object(PreparedStatement, "fetch", prepared):
            yield recorded
    finally:
        await asyncio.sleep(0)  # the driver logs a statement one loop iteration later
        event.remove(engine.sync_engine, "before_cursor_execute", through_sqlalchemy)
        event.remove(engine.sync_engine, "checkout", borrowed)
        del pool.lend
        for connection in connections:
            connection.remove_query_logger(straight)
