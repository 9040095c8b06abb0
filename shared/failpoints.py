"""Places between two lines at which a test lets a process die. Off, as always outside tests, one costs one look."""

from collections.abc import Callable

armed: Callable[[str], None] | None = None
"""What is called with the name of each place that is reached. Only tests set it."""


def failpoint(name: str) -> None:
    """Pass a place that has a name: what comes before it is done, what comes after it is not."""
    if armed is not None:
        armed(name)
