"""The worker: a Celery worker with the service's tasks, and a clock process that publishes tasks for due emails."""

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
from billiard.util import get_pdeathsig  # type: ignore[attr-defined]  # missing in celery-types
from celery import Celery
from celery.signals import (
    worker_before_create_process,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)
from sqlalchemy.orm import configure_mappers

from services.notifications.celery_runner import CeleryRunner
from services.notifications.delivery.leases import pending_work
from services.notifications.mail.message import LOCALE, load_templates
from services.notifications.settings import EmailSettings
from services.notifications.tasks import MAX_SENDERS, register_tasks
from shared.broker.celery_app import EMAILS_QUEUE, EVENTS_QUEUE, create_celery
from shared.broker.publisher import BrokerState, Publisher
from shared.broker.reports import report_until_stopped, write_report
from shared.broker.status import REFUSALS, BrokerStatus, Fault, Reason
from shared.database.engine import create_engine
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import ConnectionProvider, connection_provider, create_sessions, transaction
from shared.observability.logs import configure_logging
from shared.observability.tracing import configure_tracing, flush_traces
from shared.process.ending import arm_shutdown_deadline, leave_soon
from shared.process.running import GRACE, operations_routes, operations_server, process_name, run_until_signal
from shared.process.stopping import pause, run_until_stopped
from shared.settings import SettingsError
from shared.translations import read_catalogues

TICK: Final = 1.0  # seconds between checks for due emails
BROKER_CHECK_TICKS: Final = 5  # ticks between checks of the broker
REPORT_TIMEOUT: Final = 5.0  # seconds that the last report of a worker may take
REPEAT_INTERVAL: Final = 5.0  # seconds until the same fault is reported again

SERVICE: Final = Path(__file__).parent

# The queues' names before their arguments changed.
_FORMER_NAMES = {"chats.events": EVENTS_QUEUE, "chats.emails": EMAILS_QUEUE}

log = structlog.get_logger()


def run_worker(settings: EmailSettings, host: str, port: int, concurrency: int, queues: list[str] | None) -> int:
    """Run a Celery worker until it is stopped; return its exit code.

    Raises `SettingsError` for an unknown queue, and if the broker refuses the worker.
    """
    chosen = [_FORMER_NAMES.get(queue, queue) for queue in queues or (EVENTS_QUEUE, EMAILS_QUEUE)]
    if unknown := set(chosen) - {EVENTS_QUEUE, EMAILS_QUEUE}:
        raise SettingsError(f"unknown queue {', '.join(sorted(unknown))}: use {EVENTS_QUEUE} or {EMAILS_QUEUE}")
    if settings.warning:
        log.warning(settings.warning)
    read_catalogues(LOCALE)  # fail at the start, not at the first email in the language of a broken catalogue
    celery = create_celery(settings.broker_url, client="chats-worker")
    work = register_tasks(celery, settings, senders=max(1, min(MAX_SENDERS, concurrency // 2)))
    name = process_name("worker", port)
    _require_broker(celery, settings, name)
    _load_shared(settings)
    clock = _ClockProcess(settings, host, port)
    asyncio.run(work.wait_for_database(newest_version(SERVICE)))  # events that arrive meanwhile stay in the broker
    worker_before_create_process.connect(_freeze, weak=False)
    _trace_children(settings)
    runner = CeleryRunner(celery, clock.report)
    code = runner.run(f"chats-{port}@{socket.gethostname()}", chosen, concurrency)
    was_stopped = clock.is_stopping
    clock.end()
    if clock.died:
        return 1
    if was_stopped:  # broker faults meanwhile don't matter
        return 0
    fault = runner.refusal
    if fault is not None and fault.reason not in REFUSALS:
        # Celery ends after some connection errors. Restart, and wait for a broker that is unavailable.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
    if fault is not None:
        _report_refusal(settings, name, fault)
    return code


def _load_shared(settings: EmailSettings) -> None:
    """Load what every process of the worker needs. Forked later, they share its memory."""
    configure_mappers()
    load_templates(settings.locale)
    with suppress(OSError):  # it loads the parser of C with which each child asks to end when its parent dies
        get_pdeathsig()


def _freeze(**_: Any) -> None:
    """Exclude all objects so far from garbage collection, which would write to them and so copy shared memory."""
    gc.freeze()


def _trace_children(settings: EmailSettings) -> None:
    """Send spans from the pool's children. A thread that sends them must not exist before the fork."""

    @worker_process_init.connect(weak=False)
    def begin(**_: Any) -> None:
        configure_tracing("worker", settings)

    @worker_process_shutdown.connect(weak=False)
    def end(**_: Any) -> None:
        flush_traces()  # a child ends without its `atexit` functions


def _require_broker(celery: Celery, settings: EmailSettings, name: str) -> None:
    """Check the broker before anything is started: fail if it refuses us, continue if it is unavailable."""
    publisher = Publisher(celery, quiet=True)  # a refusal is the last line of this process; the clock logs the rest
    publisher.probe()
    publisher.close()
    fault = publisher.state.fault
    if fault is not None and fault.reason in REFUSALS:
        _report_refusal(settings, name, fault)


def _report_refusal(settings: EmailSettings, name: str, fault: Fault) -> NoReturn:
    """Report a fault to `chats status`, and raise `SettingsError`."""

    async def report() -> None:
        engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=1)
        async with asyncio.timeout(REPORT_TIMEOUT), transaction(create_sessions(engine)) as session:
            await write_report(session, name, BrokerStatus(fault, time.monotonic()))
        await engine.dispose()

    with suppress(Exception):  # without the database, the error is only logged
        asyncio.run(report())
    raise SettingsError(fault.detail)


class _ClockProcess:
    """A process for the clock, health and metrics: Celery forks, and must not fork a process with our threads.

    It is forked before the pool, while there are no threads, and shares the worker's memory. If one of the two
    processes ends, the other one ends too.
    """

    def __init__(self, settings: EmailSettings, host: str, port: int) -> None:
        context = multiprocessing.get_context("fork")
        reports, self._reports = context.Pipe(duplex=False)
        self._process = context.Process(target=_run_clock, args=(settings, host, port, reports), daemon=True)
        _freeze()
        self._process.start()
        reports.close()
        os.set_blocking(self._reports.fileno(), False)
        self._last_report: tuple[Fault | None, float] | None = None
        self._stopping = threading.Event()
        self.died = False

        @worker_shutting_down.connect(weak=False)
        def stop(**_: Any) -> None:
            self.end()
            arm_shutdown_deadline()
            # A child may wait longer for a database that does not answer. It ends with this process, and its task is
            # delivered again.
            leave_soon(seconds=GRACE)

        # A thread that only waits and has no state that a fork could copy.
        threading.Thread(target=self._watch, name="clock", daemon=True).start()

    @property
    def is_stopping(self) -> bool:
        """Whether the worker is stopping."""
        return self._stopping.is_set()

    def report(self, fault: Fault | None) -> None:
        """Send the consumer's broker fault to the clock process, at a limited rate and without blocking."""
        now = time.monotonic()
        last = self._last_report
        if last is not None and last[0] == fault and now - last[1] < REPEAT_INTERVAL:
            return
        self._last_report = fault, now
        with suppress(OSError):  # the process has ended or does not read
            self._reports.send(fault)  # smaller than PIPE_BUF: written completely or not at all

    def end(self) -> None:
        """Kill the process: it has nothing to save, and a clean exit could wait long for an unavailable broker."""
        self._stopping.set()
        self._process.kill()

    def _watch(self) -> None:
        self._process.join()
        if not self._stopping.is_set():
            self.died = True
            os.kill(os.getpid(), signal.SIGTERM)


def _run_clock(settings: EmailSettings, host: str, port: int, reports: Connection) -> None:
    configure_logging("worker", settings.log_level)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - it was forked

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    run_until_signal(lambda stop: _clock(settings, host, port, reports, stop))


async def _clock(settings: EmailSettings, host: str, port: int, reports: Connection, stop: asyncio.Event) -> None:
    """Serve health and metrics, and publish tasks for due emails, whose schedule is only a column."""
    publisher = Publisher(create_celery(settings.broker_url, client="chats-worker-clock"))
    consumer = _consumer_state(reports)

    def current_state() -> BrokerState:
        return consumer if consumer.fault else publisher.state

    engine = create_engine(settings.notifications_database_url, application="chats-worker", pool_size=3)
    sessions, acquire = create_sessions(engine), connection_provider(engine)
    version = newest_version(SERVICE)
    routes = operations_routes(
        lambda: database_fault(engine, version), details=lambda: current_state().readiness_details()
    )
    async with operations_server(routes, host, port):
        await run_until_stopped(stop, wait_for_database(engine, version))
        async with asyncio.TaskGroup() as group:
            name = process_name("worker", port)
            group.create_task(report_until_stopped(sessions, name, lambda: current_state().status(), stop))
            group.create_task(_tick_for_ever(publisher, acquire, stop))


def _consumer_state(reports: Connection) -> BrokerState:
    """Return the state of the consumer, updated by the reports of the worker's main process."""
    starting = Fault(Reason.STARTING, "the worker has not connected to the broker yet")
    state = BrokerState("consumer", fault=starting)

    def receive() -> None:
        try:
            while reports.poll():
                state.record(reports.recv())
        except (EOFError, OSError):  # the main process has ended, and this one will end too
            asyncio.get_running_loop().remove_reader(reports.fileno())

    asyncio.get_running_loop().add_reader(reports.fileno(), receive)
    return state


async def _tick_for_ever(publisher: Publisher, acquire: ConnectionProvider, stop: asyncio.Event) -> None:
    ticks = 0
    while not stop.is_set():
        try:
            async with acquire() as connection:
                pending = await pending_work(connection)
        except Exception as error:  # noqa: BLE001 - the driver raises other errors than its own; none may end the clock
            log.warning("cannot check for due emails, leaving them to the sweeper", error=type(error).__name__)
        else:
            if any(pending):
                await asyncio.to_thread(publisher.hint_due_emails)
        if ticks % BROKER_CHECK_TICKS == 0:
            await asyncio.to_thread(publisher.probe)
        ticks += 1
        await pause(stop, TICK)
