"""Run `chats` in a build that dies of a poison message: handling its event ends the process, as if by kill -9.

Spawned processes import this module again, so they are poisoned too.
"""

import os
import signal

from deploy import cli
from services.notifications.event_consumer import handlers
from shared.text import preview

POISON = "poison"


def deadly(body: str) -> str:
    if body == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return preview(body)


def poison() -> None:
    """Make this process die of the event. Every handler of a posted message calls `preview`."""
    handlers.preview = deadly  # type: ignore[attr-defined, assignment]


if __name__ in {"__main__", "__mp_main__"}:
    poison()
if __name__ == "__main__":
    cli.main()
