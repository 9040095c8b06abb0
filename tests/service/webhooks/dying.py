"""A process that sends webhooks and dies where it is told, over and over: `python -m tests.service.webhooks.dying URL`.

Each line of its input is a failpoint and how often that is reached before the death, or `none`. It forks a process for
each, so that Python starts only once, and answers with how that ended.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from services.conversations.webhooks.dispatcher import Dispatcher
from services.conversations.webhooks.sending import Sender
from shared.database.engine import create_engine
from shared.database.transactions import connection_provider, create_sessions
from shared.observability.logs import configure_logging
from shared.process import failpoints


def main(url: str) -> None:
    """Serve."""
    configure_logging("dying", "error")
    for line in sys.stdin:
        name, _, times = line.strip().partition(" ")
        child = os.fork()
        if not child:
            if name != "none":
                failpoints.armed = _dies(name, int(times))
            asyncio.run(_send(url))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)  # noqa: T201 - its answer


def _dies(name: str, times: int) -> Callable[[str], None]:
    left = times

    def reach(reached: str) -> None:
        nonlocal left
        left -= reached == name
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


async def _send(url: str) -> None:
    """Send until nothing is pending for a while."""
    engine = create_engine(url, application="dying", pool_size=4)
    sender, stop = Sender(frozenset({"127.0.0.1"})), asyncio.Event()
    acquire = connection_provider(engine)
    task = asyncio.create_task(Dispatcher(create_sessions(engine), acquire, sender, (0, *[0.05] * 20)).run(stop))
    async with acquire() as driver:
        while await driver.fetchval(_UNFINISHED):  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.02)
    stop.set()
    await task
    await sender.close()
    await engine.dispose()


_UNFINISHED = """
    select (select position < head from webhook_progress, feed)
        or exists (select from webhook_deliveries where state = 'pending')
"""

if __name__ == "__main__":
    main(sys.argv[1])
