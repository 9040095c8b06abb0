"""The worker: a Celery worker with the service's tasks, and a clock that tells when mail has become due."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
from celery import Celery
from celery.signals import worker_shutting_down

from services.notifications.celery_runner import CeleryRunner
from services.notifications.delivery.leases import pending_work
from services.notifications.mail.message import LOCALE
from services.notifications.settings import EmailSettings
from services.notifications.tasks import register_tasks
from shared.broker import EMAILS_QUEUE, EVENTS_QUEUE, create_celery
from shared.broker_faults import REFUSALS, Fault, Reason, Standing
from shared.broker_reports import report_for_ever, write_report
from shared.database import ConnectionProvider, connection_provider, create_engine, create_sessions, transaction
from shared.observability import configure_logging
from shared.processes import (
    arm_shutdown_deadline,
    operations_routes,
    operations_server,
    pause,
    process_name,
    run_until_signal,
    run_until_stopped,
)
from shared.publisher import BrokerState, Publisher
from shared.readiness import database_fault, newest_version, wait_for_database
from shared.settings import SettingsError
from shared.translations import read_catalogues

TICK: Final = 1.0  # seconds between looks for due mail
LOOK_AT_BROKER: Final = 5  # ticks between looks at the broker
REPORT_TIME: Final = 5.0  # seconds that the last word of a worker may take
TELL_EVERY: Final = 5.0  # seconds between two words about the same fault

SERVICE: Final = Path(__file__).parent

# What the queues were called before they got other arguments.
_FORMER_NAMES = {"chats.events": EVENTS_QUEUE, "chats.emails": EMAILS_QUEUE}

log = structlog.get_logger()


def run_worker(settings: EmailSettings, host: str, port: int, concurrency: int, queues: list[str] | None) -> int:
    """Run a Celery worker until it is told to stop; return its exit code.

    Raises `SettingsError` for a queue that there is not, and when the broker refuses the worker.
    """
    chosen = [_FORMER_NAMES.get(queue, queue) for queue in queues or (EVENTS_QUEUE, EMAILS_QUEUE)]
    if unknown := set(chosen) - {EVENTS_QUEUE, EMAILS_QUEUE}:
        raise SettingsError(f"there is no queue {', '.join(sorted(unknown))}, only {EVENTS_QUEUE} and {EMAILS_QUEUE}")
    read_catalogues(LOCALE)  # a broken one shows here, not with the first mail in its language
    celery = create_celery(settings.broker_url, client="chats-worker")
    register_tasks(celery, settings)
    name = process_name("worker", port)
    _require_broker(celery, settings, name)
    beside = _Beside(settings, host, port)
    asyncio.run(_until_ready(settings))  # events that come meanwhile stay in the broker
    consumption = CeleryRunner(celery, beside.tell)
    code = consumption.run(
        f"--concurrency={concurrency}", f"--queues={','.join(chosen)}", f"--hostname=chats-{port}@%h"
    )
    was_asked = beside.is_stopping
    beside.end()
    if beside.died:
        return 1
    if was_asked:  # whatever the broker did meanwhile
        return 0
    fault = consumption.refusal
    if fault is not None and fault.reason not in REFUSALS:
        # Celery gives up on some connections that break at a bad moment. What is away is waited for: begin anew.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
    if fault is not None:
        _report_refusal(settings, name, fault)
    return code


async def _until_ready(settings: EmailSettings) -> None:
    engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=1)
    await wait_for_database(engine, newest_version(SERVICE))
    await engine.dispose()


def _require_broker(celery: Celery, settings: EmailSettings, name: str) -> None:
    """Look at the broker before anything is started. One that is away is waited for, one that refuses us is not."""
    publisher = Publisher(celery)
    publisher.look()
    publisher.close()
    fault = publisher.state.fault
    if fault is not None and fault.reason in REFUSALS:
        _report_refusal(settings, name, fault)


def _report_refusal(settings: EmailSettings, name: str, fault: Fault) -> NoReturn:
    """Leave word for `chats status`, and raise `SettingsError`."""

    async def report() -> None:
        engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=1)
        async with asyncio.timeout(REPORT_TIME), transaction(create_sessions(engine)) as session:
            await write_report(session, name, Standing(fault, time.monotonic()))
        await engine.dispose()

    with suppress(Exception):  # without the database there is the log
        asyncio.run(report())
    raise SettingsError(fault.detail)


class _Beside:
    """What runs beside Celery in a process of its own: Celery forks, and a fork must find no threads of ours.

    Neither outlives the other.
    """

    def __init__(self, settings: EmailSettings, host: str, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        told, self._tell = context.Pipe(duplex=False)
        self._process = context.Process(target=_run_beside, args=(settings, host, port, told), daemon=True)
        self._process.start()
        told.close()
        os.set_blocking(self._tell.fileno(), False)
        self._told: tuple[Fault | None, float] | None = None
        self._stopping = threading.Event()
        self.died = False

        @worker_shutting_down.connect(weak=False)
        def stop(**_: Any) -> None:
            self.end()
            arm_shutdown_deadline()

        # It only waits, and holds nothing that a fork could copy.
        threading.Thread(target=self._follow, name="beside", daemon=True).start()

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was asked to stop."""
        return self._stopping.is_set()

    def tell(self, fault: Fault | None) -> None:
        """Tell it how the consumer stands with the broker; not all the time, and without waiting for it."""
        now = time.monotonic()
        if self._told is not None and self._told[0] == fault and now - self._told[1] < TELL_EVERY:
            return
        self._told = fault, now
        with suppress(OSError):  # it is gone, or does not listen
            self._tell.send(fault)  # far below PIPE_BUF: written as a whole, or not at all

    def end(self) -> None:
        """End it: it holds nothing, and its own end could wait long for a broker that is away."""
        self._stopping.set()
        self._process.kill()

    def _follow(self) -> None:
        self._process.join()
        if not self._stopping.is_set():
            self.died = True
            os.kill(os.getpid(), signal.SIGTERM)


def _run_beside(settings: EmailSettings, host: str, port: int, told: Connection) -> None:
    configure_logging("worker", settings.log_level)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - it was spawned

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    run_until_signal(lambda stop: _beside(settings, host, port, told, stop))


async def _beside(settings: EmailSettings, host: str, port: int, told: Connection, stop: asyncio.Event) -> None:
    """Serve health and metrics, and hint at due mail: a schedule is a column, so somebody has to look at it."""
    publisher = Publisher(create_celery(settings.broker_url, client="chats-worker-clock"))
    consumer = _heard(told)

    def worst() -> BrokerState:
        return consumer if consumer.fault else publisher.state

    engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=3)
    sessions, acquire = create_sessions(engine), connection_provider(engine)
    version = newest_version(SERVICE)
    routes = operations_routes(lambda: database_fault(engine, version), about=lambda: worst().about())
    async with operations_server(routes, host, port):
        await run_until_stopped(stop, wait_for_database(engine, version))
        async with asyncio.TaskGroup() as group:
            name = process_name("worker", port)
            group.create_task(report_for_ever(sessions, name, lambda: worst().standing(), stop))
            group.create_task(_tick_for_ever(publisher, acquire, stop))


def _heard(told: Connection) -> BrokerState:
    """Return the state of the consumer, as the worker's main process tells it."""
    state = BrokerState("consumer")
    state.fault = Fault(Reason.STARTING, "the worker has not connected to the broker yet")

    def hear() -> None:
        try:
            while told.poll():
                state.note(told.recv())
        except (EOFError, OSError):  # it is gone, and so will this process be
            asyncio.get_running_loop().remove_reader(told.fileno())

    asyncio.get_running_loop().add_reader(told.fileno(), hear)
    return state


async def _tick_for_ever(publisher: Publisher, acquire: ConnectionProvider, stop: asyncio.Event) -> None:
    ticks = 0
    while not stop.is_set():
        try:
            async with acquire() as connection:
                pending = await pending_work(connection)
        except Exception as error:  # noqa: BLE001 - the driver raises more than its own kind; none may end the clock
            log.warning("no hint given, the sweeper makes up for it", error=type(error).__name__)
        else:
            if any(pending):
                await asyncio.to_thread(publisher.hint_due_mail)
        if ticks % LOOK_AT_BROKER == 0:
            await asyncio.to_thread(publisher.look)
        ticks += 1
        await pause(stop, TICK)
