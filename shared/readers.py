"""What runs statements that read."""

from collections.abc import Sequence
from typing import Any, Protocol


class Prepared(Protocol):
    """A statement that is ready to run."""

    async def fetch(self, *values: Any) -> Sequence[Any]:
        """Run it, and return its rows."""


class Reader(Protocol):
    """What runs statements that read: a connection, or a request that looks who asks in the same statement."""

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Run a statement, and return its rows."""

    async def prepare(self, query: str) -> Prepared:
        """Make a statement ready whose plan is made for its values."""


async def search(reader: Reader, query: str, *values: Any) -> Sequence[Any]:
    """Run a query whose best plan hangs on a pattern: it is planned each time, and no plan is kept for any pattern.

    That one would walk through all users in their order, as if there were always some to be found soon.
    """
    return await (await reader.prepare(query)).fetch(*values)
