"""The interface for running queries."""

from collections.abc import Sequence
from typing import Any, Protocol


class PreparedStatement(Protocol):
    """A prepared statement."""

    async def fetch(self, *values: Any) -> Sequence[Any]:
        """Run the statement and return its rows."""


class Reader(Protocol):
    """Runs queries: a connection, or a request that authenticates its caller in the same statement."""

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Run a statement and return its rows."""

    async def prepare(self, query: str) -> PreparedStatement:
        """Prepare a statement that is planned for its values."""


async def fetch_with_custom_plan(reader: Reader, query: str, *values: Any) -> Sequence[Any]:
    """Run a query whose best plan depends on a search pattern, with a plan for these values.

    PostgreSQL's generic plan would walk through all users in order, as if matches were always near.
    """
    return await (await reader.prepare(query)).fetch(*values)
