"""The relay: numbers the log, hands what it has just numbered to Celery, erases what was deleted, and purges.

Numbering is the claim: the relay that numbered an event publishes it, so several relays share the work. What is
published is a hint; a hint that is lost (a crash here, a broker that is away) is made up by the notifications
service's sweeper, which reads the log itself. So a slow broker must never hold up the numbering: hints wait for it in
a short queue in a thread of its own, and are dropped when that is full, when the broker cannot be used, and when as
many tasks wait in it as may (`shared/publisher.py`). Live streams are told in a task of its own.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge

from services.conversations.event_log.retention import purge_events, purge_keys
from services.conversations.event_log.sequencer import has_unnumbered, number_events, read_state, rotate_epoch_if_moved
from services.conversations.identity.sessions import purge_sessions
from services.conversations.messaging.erasure_batches import erase_round, purge_erasures
from services.conversations.realtime.log_notify import LogNotifier
from services.conversations.realtime.presence import purge_presence
from services.conversations.settings import StoreSettings
from shared.broker import TASKS, create_celery
from shared.broker_faults import Reason
from shared.broker_reports import report_for_ever
from shared.database import SessionFactory, create_engine, create_sessions, transaction, without_transactions
from shared.events import Event
from shared.failpoints import failpoint
from shared.outages import describe
from shared.processes import operations_routes, operations_server, pause, process_name, run_until_stopped
from shared.publisher import Publisher
from shared.readiness import database_fault, newest_version, wait_for_database

LOOK = 0.02  # seconds between looks at a quiet log
GATHER = 0.05  # seconds after a batch until the next one, which is the cheaper the more there is in it
BATCH = 1000  # events numbered in one transaction
ERASE_EVERY = 1.0  # seconds between looks for what is to be erased, when there was nothing
PURGE_EVERY = 60  # seconds between looks for what is beyond the retention
PURGE_BATCH = 1000  # rows deleted in one transaction
WAITING_BATCHES = 100  # that a slow broker may make wait, before hints are dropped
LOOK_AT_BROKER = 5.0  # seconds without news, after which the broker is looked at

NUMBERED = Counter("chats_log_numbered_total", "Events that this relay has numbered")
HINTS = Counter("chats_relay_hints_total", "Events handed to the broker, by what became of them", ["outcome"])
PURGED = Counter("chats_log_purged_total", "Rows deleted beyond their time: events, keys, sessions, viewers")
ERASED = Counter("chats_erased_total", "Rows that this relay has erased of deleted conversations and users")
HEAD = Gauge("chats_log_head", "The last position in the log")
UNNUMBERED = Gauge("chats_log_unnumbered", "Committed events without a position")
WAITING = Gauge("chats_relay_hints_waiting", "Tasks that waited in the broker for workers, when last looked at")
LAG = Gauge("chats_relay_lag_seconds", "Age of the oldest event without a position")

log = structlog.get_logger()


class TaskPublisher:
    """Publishes batches of events from a thread, so that the broker's bad days are not the log's."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: queue.Queue[list[Event] | None] = queue.Queue(WAITING_BATCHES)
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
        self._thread.start()

    def publish(self, events: list[Event]) -> None:
        """Take a batch, or drop it when the broker is too far behind."""
        hinted = [event for event in events if event.type in TASKS]
        if not hinted:
            return
        try:
            self._waiting.put_nowait(hinted)
        except queue.Full:
            HINTS.labels("dropped").inc(len(hinted))

    def close(self, timeout: float) -> None:
        """Publish what waits, for at most `timeout` seconds."""
        try:
            self._waiting.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        self._publisher.look()
        while True:
            try:
                batch = self._waiting.get(timeout=LOOK_AT_BROKER)
            except queue.Empty:
                self._publisher.look()
            else:
                if batch is None:
                    self._publisher.close()
                    return
                self._publish(batch)
            WAITING.set(self._publisher.waiting or 0)

    def _publish(self, batch: list[Event]) -> None:
        failpoint("hints-taken")
        published = self._publisher.publish_events(batch)
        HINTS.labels("published").inc(len(published))
        if missing := len(batch) - len(published):
            fault = self._publisher.state.fault
            held_back = fault is not None and fault.reason == Reason.QUEUE_FULL
            HINTS.labels("held_back" if held_back else "failed").inc(missing)
        if published:
            failpoint("hints-published")
        for event in published:
            log.info("event published", **event.ids)


async def run_relay(settings: StoreSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Number and publish until `stop`."""
    engine = create_engine(settings.conversations_database_url, application="chats-relay", pool_size=4)
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    publisher = Publisher(create_celery(settings.broker_url, client="chats-relay"))
    routes = operations_routes(
        lambda: database_fault(engine, version), lambda: measure(sessions), publisher.state.about
    )
    async with operations_server(routes, host, port):
        await run_until_stopped(stop, wait_for_database(engine, version))
        publisher_thread = TaskPublisher(publisher)
        notifier = LogNotifier()

        def give(events: list[Event]) -> None:
            if events:
                notifier.notify(events[-1].position or 0)
                publisher_thread.publish(events)

        async with asyncio.TaskGroup() as group:
            group.create_task(_number(sessions, give, stop))
            if settings.redis_url is not None:
                group.create_task(run_until_stopped(stop, notifier.run(settings.redis_url)))
            group.create_task(_erase(sessions, stop))
            group.create_task(_purge(sessions, settings, stop))
            group.create_task(report_for_ever(sessions, process_name("relay", port), publisher.state.standing, stop))
        await asyncio.to_thread(publisher_thread.close, 5)
    await engine.dispose()


async def _number(sessions: SessionFactory, give: Callable[[list[Event]], None], stop: asyncio.Event) -> None:
    looks = without_transactions(sessions)
    settled = False  # readers of a restored log have to know at once, not with its first new event
    while not stop.is_set():
        try:
            async with looks() as session:
                quiet = settled and not await has_unnumbered(session)
            if quiet:
                await pause(stop, LOOK)
                continue
            async with transaction(sessions) as session:
                if not settled:
                    await rotate_epoch_if_moved(session)
                events = await number_events(session, size=BATCH)
        except Exception as error:  # noqa: BLE001 - the driver raises more than its own kind; none may end this
            settled = False  # it may be another server that answers next
            log.warning("log not numbered, trying again", error=describe(error))
            await pause(stop, 1)
            continue
        settled = True
        failpoint("numbering-committed")
        give(events)
        NUMBERED.inc(len(events))
        if len(events) < BATCH:
            await pause(stop, GATHER)


async def _erase(sessions: SessionFactory, stop: asyncio.Event) -> None:
    """Erase what was deleted, batch by batch. Every relay does: a batch locks its erasure, and others go past it."""
    while not stop.is_set():
        rows = 0
        try:
            rows = await erase_round(sessions)
        except Exception as error:  # as below
            log.warning("nothing erased, trying again", error=type(error).__name__)
            log.debug("nothing erased", exc_info=True)
        ERASED.inc(rows)
        if not rows:
            await pause(stop, ERASE_EVERY)


async def _purge(sessions: SessionFactory, settings: StoreSettings, stop: asyncio.Event) -> None:
    """Delete what is beyond the retention, a batch a transaction, so that nobody waits long for it."""
    while not stop.is_set():
        try:
            for purge in (purge_events, purge_keys, purge_sessions, purge_presence, purge_erasures):
                deleted = PURGE_BATCH
                while deleted == PURGE_BATCH and not stop.is_set():
                    async with transaction(sessions) as session:
                        deleted = await purge(session, settings, size=PURGE_BATCH)
                    PURGED.inc(deleted)
        except Exception as error:  # it must not end the numbering beside it
            log.warning("nothing purged, trying again", error=type(error).__name__)
            log.debug("nothing purged", exc_info=True)
        await pause(stop, PURGE_EVERY)


async def measure(sessions: SessionFactory) -> None:
    """Set the gauges from the log."""
    async with transaction(sessions) as session:
        state = await read_state(session)
    HEAD.set(state.head)
    UNNUMBERED.set(state.unnumbered)
    LAG.set(state.lag)
