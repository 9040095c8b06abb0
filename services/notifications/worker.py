"""The worker: a Celery worker with the service's tasks, and a clock that tells when mail has become due."""

import asyncio
import threading
from contextlib import suppress

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from services.notifications.leases import has_due_email
from services.notifications.measures import measure
from services.notifications.settings import MailSettings
from services.notifications.tasks import register_tasks
from shared.broker import EMAILS_QUEUE, EVENTS_QUEUE, create_celery, hint_due_mail
from shared.database import Sessions, create_engine, create_sessions, database_fault, transaction, wait_for_database
from shared.processes import operations_routes, operations_server

TICK = 1.0  # seconds between looks for due mail

log = structlog.get_logger()


def run_worker(settings: MailSettings, host: str, port: int, concurrency: int) -> None:
    """Run a Celery worker until it is told to stop."""
    celery = create_celery(settings.broker_url, client="chats-worker")
    register_tasks(celery, settings)
    threading.Thread(
        target=lambda: asyncio.run(_beside(celery, settings, host, port)), name="beside", daemon=True
    ).start()
    celery.worker_main(
        [
            "worker",
            f"--concurrency={concurrency}",
            f"--queues={EVENTS_QUEUE},{EMAILS_QUEUE}",
            f"--hostname=chats-{port}@%h",
            "--without-mingle",
            "--without-gossip",
            "--loglevel=WARNING",
            "--events",
        ]
    )


async def _beside(celery: Celery, settings: MailSettings, host: str, port: int) -> None:
    """Serve health and metrics, and hint at due mail: a schedule is a column, so somebody has to look at it."""
    engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=3)
    sessions = create_sessions(engine)
    routes = operations_routes(lambda: database_fault(engine), lambda: measure(sessions))
    async with operations_server(routes, host, port):
        await wait_for_database(engine)
        while True:
            await asyncio.sleep(TICK)
            with suppress(SQLAlchemyError, OSError, TimeoutError, OperationalError):
                await _tick(celery, sessions)


async def _tick(celery: Celery, sessions: Sessions) -> None:
    async with transaction(sessions) as session:
        due = await has_due_email(session)
    if due:
        await asyncio.to_thread(hint_due_mail, celery)
