"""What is said to a database: every statement, whether it goes through SQLAlchemy or straight to the driver."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

_KINDS = {UUID: "uuid", datetime: "timestamptz"}
_OWN = ("typeinfo_tree", "'jit'")  # with what the driver learns, once on each connection, of a type that is new to it
_AROUND = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE")


class Statement(NamedTuple):
    """A statement, and the values in it."""

    query: str
    values: tuple[Any, ...]

    @property
    def alone(self) -> str:
        """The statement with its values in their places."""
        return re.sub(r"\$(\d+)", lambda found: _literal(self.values[int(found[1]) - 1]), self.query)


def without_transactions(said: list[Statement]) -> list[Statement]:
    """Leave out what only begins and ends transactions."""
    return [one for one in said if not one.query.startswith(_AROUND)]


def _literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"array[{', '.join(map(_literal, value))}]"
    if value is None or isinstance(value, int | float):
        return "null" if value is None else str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    kind = next((name for of, name in _KINDS.items() if isinstance(value, of)), "text")
    quoted = str(value).replace("'", "''")
    return f"'{quoted}'::{kind}"


@asynccontextmanager
async def statements(engine: AsyncEngine) -> AsyncIterator[list[Statement]]:
    """Note what is said meanwhile, over connections that are borrowed meanwhile; transactions' bounds as well."""
    said: list[Statement] = []
    heard = set()

    def through_sqlalchemy(_: object, __: object, query: str, values: Any, *___: object) -> None:
        said.append(Statement(query, tuple(values)))

    def straight(logged: Any) -> None:
        if not any(words in logged.query for words in _OWN):
            said.append(Statement(logged.query, tuple(logged.args)))

    def borrowed(_: object, record: Any, __: object) -> None:
        heard.add(record.driver_connection)
        record.driver_connection.add_query_logger(straight)

    event.listen(engine.sync_engine, "before_cursor_execute", through_sqlalchemy)
    event.listen(engine.sync_engine, "checkout", borrowed)
    try:
        yield said
    finally:
        await asyncio.sleep(0)  # the driver tells of a statement a step later
        event.remove(engine.sync_engine, "before_cursor_execute", through_sqlalchemy)
        event.remove(engine.sync_engine, "checkout", borrowed)
        for driver in heard:
            driver.remove_query_logger(straight)
