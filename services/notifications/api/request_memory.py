"""Memory that requests share: one that finds too little left is told to come again."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.problems import Unavailable


class RequestMemory:
    """A number of bytes, of which requests take their share as long as they run."""

    def __init__(self, size: int) -> None:
        self._left = size

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Take a share for the duration. Raises `Unavailable` if too little is left."""
        if size > self._left:
            raise Unavailable("Too many large emails arrive at the same time. Try again.")
        self._left -= size
        try:
            yield
        finally:
            self._left += size
