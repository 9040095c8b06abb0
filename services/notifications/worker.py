"""The worker: a Celery worker with the service's tasks, and a clock that tells when mail has become due."""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import structlog
from celery import Celery
from celery.signals import worker_shutting_down
from celery.worker.consumer import consumer

from services.notifications.leases import look_for_mail
from services.notifications.mail.compose import LOCALE
from services.notifications.measures import measure
from services.notifications.settings import MailSettings
from services.notifications.tasks import register_tasks
from shared.broker import EMAILS_QUEUE, EVENTS_QUEUE, create_celery, hint_due_mail
from shared.database import Lend, create_engine, create_lender, create_sessions
from shared.observability import configure_logging
from shared.processes import (
    end_in_time,
    operations_routes,
    operations_server,
    pause,
    run_until_signal,
    unless_stopped,
)
from shared.readiness import database_fault, newest_version, wait_for_database
from shared.settings import SettingsError
from shared.translations import read_catalogues

# By their templates, which celery-types does not know.
_QUOTING = {
    getattr(consumer, name)
    for name in ("UNKNOWN_FORMAT", "UNKNOWN_TASK_ERROR", "INVALID_TASK_ERROR", "MESSAGE_DECODE_ERROR")
}

SERVICE = Path(__file__).parent
TICK = 1.0  # seconds between looks for due mail

log = structlog.get_logger()


def run_worker(settings: MailSettings, host: str, port: int, concurrency: int, queues: list[str] | None) -> None:
    """Run a Celery worker until it is told to stop. Raises `SettingsError` for a queue that there is not."""
    queues = queues or [EVENTS_QUEUE, EMAILS_QUEUE]
    if unknown := set(queues) - {EVENTS_QUEUE, EMAILS_QUEUE}:
        raise SettingsError(f"there is no queue {', '.join(sorted(unknown))}, only {EVENTS_QUEUE} and {EMAILS_QUEUE}")
    read_catalogues(LOCALE)  # a broken one shows here, not with the first mail in its language
    celery = create_celery(settings.broker_url, client="chats-worker")
    register_tasks(celery, settings)
    # Celery would log the whole content of a message that it has no task for; we log that it was parked.
    logging.getLogger(consumer.__name__).addFilter(tells_no_content)
    _start_beside(settings, host, port)
    asyncio.run(_until_ready(settings))  # events that come meanwhile stay in the broker
    celery.worker_main(
        [
            "worker",
            f"--concurrency={concurrency}",
            f"--queues={','.join(queues)}",
            f"--hostname=chats-{port}@%h",
            "--without-mingle",
            "--without-gossip",
            "--loglevel=WARNING",
            "--events",
        ]
    )


async def _until_ready(settings: MailSettings) -> None:
    engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=1)
    await wait_for_database(engine, newest_version(SERVICE))
    await engine.dispose()


def tells_no_content(record: logging.LogRecord) -> bool:
    """Hold back those lines of Celery that quote a message."""
    return record.msg not in _QUOTING


def _start_beside(settings: MailSettings, host: str, port: int) -> None:
    """Start what runs beside Celery in a process of its own: Celery forks, and a fork must find no threads of ours.

    Neither outlives the other.
    """
    process = multiprocessing.get_context("spawn").Process(target=_run_beside, args=(settings, host, port), daemon=True)
    process.start()
    stopping = threading.Event()

    @worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        stopping.set()
        process.kill()  # it holds nothing, and its own end could wait long for a broker that is away
        end_in_time()

    def follow() -> None:
        process.join()
        if not stopping.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    # It only waits, and holds nothing that a fork could copy.
    threading.Thread(target=follow, name="beside", daemon=True).start()


def _run_beside(settings: MailSettings, host: str, port: int) -> None:
    configure_logging("worker", settings.log_level)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - it was spawned

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    run_until_signal(lambda stop: _beside(settings, host, port, stop))


async def _beside(settings: MailSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve health and metrics, and hint at due mail: a schedule is a column, so somebody has to look at it."""
    celery = create_celery(settings.broker_url, client="chats-worker-clock")
    engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=3)
    sessions, lend = create_sessions(engine), create_lender(engine)
    version = newest_version(SERVICE)
    routes = operations_routes(lambda: database_fault(engine, version), lambda: measure(sessions))
    async with operations_server(routes, host, port):
        await unless_stopped(stop, wait_for_database(engine, version))
        while not stop.is_set():
            await pause(stop, TICK)
            try:
                await _tick(celery, lend)
            except Exception as error:  # noqa: BLE001 - kombu raises whatever its transport does; none may end the clock
                log.warning("no hint given, the sweeper makes up for it", error=type(error).__name__)


async def _tick(celery: Celery, lend: Lend) -> None:
    async with lend() as connection:
        waiting = await look_for_mail(connection)
    if any(waiting):
        await asyncio.to_thread(hint_due_mail, celery)
