"""Run `chats` in a build that dies of a poison message: handling its event ends the process, as if by kill -9."""

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


def main() -> None:
    """Make this process and those that it forks die of the event. Each handler of a posted message calls `preview`."""
    handlers.preview = deadly  # type: ignore[attr-defined, assignment]
    cli.main()


if __name__ == "__main__":
    main()
