"""Failpoints: named places where tests can stop a process. Outside tests each costs only a check for None."""

from collections.abc import Callable

armed: Callable[[str], None] | None = None
"""Called with the name of each failpoint that is reached. Only tests set it."""


def failpoint(name: str) -> None:
    """Mark a failpoint: the work before it is done, the work after it is not."""
    if armed is not None:
        armed(name)
