"""The pipeline's yardsticks as processes: a Celery task that does nothing, a loop that sends one email repeatedly.

`python -m bench.bare celery BROKER_URL` runs a worker with the product's options and number of pool processes.
`python -m bench.bare smtp PORT COUNT FILE` sends a file COUNT times over one connection, and prints emails per second.
"""

import argparse
import time
from pathlib import Path

import uvloop
from aiosmtplib import SMTP
from celery import Celery

from shared.broker.celery_app import EVENTS_QUEUE, create_celery

NOTHING = "bare.nothing"


def create_bare_celery(broker_url: str) -> Celery:
    """Make the application, whose only task does nothing."""
    celery = create_celery(broker_url, client="bare")

    @celery.task(name=NOTHING, queue=EVENTS_QUEUE, shared=False)
    def nothing(*_: object) -> None:
        pass

    return celery


async def _send(port: int, count: int, content: bytes) -> float:
    async with SMTP(hostname="127.0.0.1", port=port) as smtp:
        started = time.perf_counter()
        for _ in range(count):
            await smtp.sendmail("support@store.test", "anna@customer.test", content)
        return count / (time.perf_counter() - started)


def main() -> None:
    """Run one of the yardsticks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("yardstick", choices=["celery", "smtp"])
    parser.add_argument("arguments", nargs="+")
    options = parser.parse_args()
    if options.yardstick == "celery":
        flags = ["--without-mingle", "--without-gossip", "--loglevel=WARNING", "--events"]
        queue = f"--queues={EVENTS_QUEUE}"
        create_bare_celery(*options.arguments).worker_main(
            ["worker", "--concurrency=4", queue, "--hostname=bare@%h", *flags]
        )
    else:
        port, count, file = options.arguments
        print(uvloop.run(_send(int(port), int(count), Path(file).read_bytes())))


if __name__ == "__main__":
    main()
