"""The relay: numbers events and publishes them to Celery.

The relay that numbers an event publishes it, so several relays share the work. Published tasks are only hints: if one
is lost, in a crash or because the broker is unavailable, the notifications service's sweeper finds the event in the
log. A slow broker must not hold up the numbering. So events for Celery go to a short queue with a thread of its own,
and are dropped if the queue is full, if the broker is unavailable, or if too many tasks wait in the broker
(`shared/broker/publisher.py`). A separate task notifies live streams.
"""

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge

from services.conversations.event_log.sequencer import has_unnumbered, number_events
from services.conversations.metrics import collect
from services.conversations.realtime.log_notify import APPENDED, LOG_GROWN, Listener, Notifier
from services.conversations.settings import StoreSettings
from shared.broker.celery_app import EVENTS_QUEUE, TASKS, create_celery
from shared.broker.publisher import Publisher
from shared.broker.reports import report_until_stopped
from shared.broker.status import Reason
from shared.database.engine import close_engine, create_engine
from shared.database.errors import describe
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import SessionFactory, connection_provider, create_sessions
from shared.event_log.sequencer import rotate_epoch_if_moved
from shared.events import Event
from shared.observability.tracing import SpanName, record_span, span_start
from shared.process.failpoints import failpoint
from shared.process.running import operations_routes, operations_server, process_name
from shared.process.stopping import pause, run_until_stopped

POLL = 0.02  # seconds between checks of a quiet log
NOTIFIED_POLL = 0.2  # the same while notifications of new events arrive
GATHER = 0.01  # seconds until the next batch, for each event just numbered: under load, a batch has many events
MAX_GATHER = 0.05  # seconds
BATCH = 1000  # events numbered in one transaction, or published at once
TASK_PAUSE = 0.05  # seconds between tasks, for each event just published: under load, a task carries many events
MAX_TASK_PAUSE = 0.1  # seconds
TASK_CREDIT = 0.1  # seconds of these pauses that a quiet time makes up for, so that a few events in a row do not wait
WAITING_BATCHES = 100  # batches queued for a slow broker before further ones are dropped
CHECK_BROKER_EVERY = 5.0  # seconds between checks of the broker while nothing is published

NUMBERED = Counter("chats_log_numbered_total", "Events that this relay has numbered")
HINTS = Counter("chats_relay_hints_total", "Events to publish to the broker, by outcome", ["outcome"])
WAITING = Gauge("chats_relay_hints_waiting", "Tasks waiting in the broker for workers, when last checked")

log = structlog.get_logger()


class Pace:
    """The pauses between tasks: none after a quiet time, and longer ones the more events there are."""

    def __init__(self) -> None:
        self._next_at = -math.inf

    def pause_after(self, events: int, now: float) -> float:
        """Return how many seconds to wait after events that were published at the time `now`."""
        self._next_at = min(max(self._next_at, now - TASK_CREDIT) + events * TASK_PAUSE, now + MAX_TASK_PAUSE)
        return max(self._next_at - now, 0)


class TaskPublisher:
    """Publishes batches of events from its own thread, so that broker problems do not hold up the log."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: queue.Queue[list[Event] | None] = queue.Queue(WAITING_BATCHES)
        self._thread = threading.Thread(target=self._run, name="task-publisher", daemon=True)
        self._thread.start()

    def publish(self, events: list[Event]) -> None:
        """Queue a batch, or drop it if the queue is full."""
        batch = [event for event in events if event.type in TASKS]
        if not batch:
            return
        try:
            self._waiting.put_nowait(batch)
        except queue.Full:
            HINTS.labels("dropped").inc(len(batch))

    def close(self, timeout: float) -> None:
        """Publish the queued batches, for at most `timeout` seconds."""
        try:
            self._waiting.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        self._publisher.probe()
        pace = Pace()
        while (events := self._next_events()) is not None:
            if events:
                self._publish(events)
            else:
                self._publisher.probe()
            WAITING.set(self._publisher.waiting or 0)
            time.sleep(pace.pause_after(len(events), time.monotonic()))
        self._publisher.close()

    def _next_events(self) -> list[Event] | None:
        """Return the queued events, none if there were none for a while, or None after `close`."""
        events: list[Event] = []
        with suppress(queue.Empty):
            batch = self._waiting.get(timeout=CHECK_BROKER_EVERY)
            while batch is not None:
                events += batch
                if len(events) >= BATCH:
                    return events
                batch = self._waiting.get_nowait()
            if not events:
                return None
            self._waiting.put(None)  # for the next call
        return events

    def _publish(self, events: list[Event]) -> None:
        failpoint("hints-taken")
        published = self._publisher.publish_events(events)
        HINTS.labels("published").inc(len(published))
        if missing := len(events) - len(published):
            fault = self._publisher.state.fault
            held_back = fault is not None and fault.reason == Reason.QUEUE_FULL
            HINTS.labels("held_back" if held_back else "failed").inc(missing)
        if published:
            failpoint("hints-published")
        for event in published:
            log.info("event published", **event.ids)
            record_span(SpanName.PUBLISH, event.message_ids, span_start(event.occurred_at), queue=EVENTS_QUEUE)


async def run_relay(settings: StoreSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Run all tasks of the relay until `stop`."""
    engine = create_engine(settings.conversations_database_url, application="chats-relay", pool_size=4)
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    publisher = Publisher(create_celery(settings.broker_url, client="chats-relay"))
    routes = operations_routes(
        lambda: database_fault(engine, version),
        lambda: collect(sessions, settings),
        publisher.state.readiness_details,
    )
    async with operations_server(routes, host, port):
        await run_until_stopped(stop, wait_for_database(engine, version))
        task_publisher = TaskPublisher(publisher)
        notifier, wakeup = Notifier(LOG_GROWN), _Wakeup()

        def notify(events: list[Event]) -> None:
            if events:
                notifier.notify(events[-1].position or 0)

        async with asyncio.TaskGroup() as group:
            group.create_task(_number(sessions, task_publisher.publish, notify, wakeup, stop))
            if settings.redis_url is not None:
                group.create_task(run_until_stopped(stop, notifier.run(settings.redis_url)))
                group.create_task(run_until_stopped(stop, wakeup.listener.run(settings.redis_url)))
            group.create_task(report_until_stopped(sessions, process_name("relay", port), publisher.state.status, stop))
        await asyncio.to_thread(task_publisher.close, 5)
    await close_engine(engine)


class _Wakeup:
    """Waits for a notification of new events, but not longer than a poll, which finds those that nothing announced."""

    def __init__(self) -> None:
        self._appended = asyncio.Event()
        self.listener = Listener(APPENDED, self._appended.set)

    async def wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(NOTIFIED_POLL if self.listener.listening else POLL):
                await self._appended.wait()

    def take(self) -> bool:
        """Return whether new events have been announced since the last call."""
        announced = self._appended.is_set()
        self._appended.clear()
        return announced


async def _number(
    sessions: SessionFactory,
    publish: Callable[[list[Event]], None],
    notify: Callable[[list[Event]], None],
    wakeup: _Wakeup,
    stop: asyncio.Event,
) -> None:
    """Number events until `stop`. Call `publish` with them before the commit, and `notify` after it.

    A task need not wait for the commit of a position: it carries an event that is committed already, and the inbox
    knows it by its id. If the commit fails, the event is numbered and published again.
    """
    acquire = connection_provider(sessions.kw["bind"])
    epoch_checked = False  # readers of a restored log must learn its new epoch at once, not with its first new event
    while not stop.is_set():
        try:
            if not wakeup.take() and epoch_checked:
                async with acquire() as connection:
                    quiet = not await has_unnumbered(connection)
                if quiet:
                    await wakeup.wait()
                    continue
            async with acquire() as connection, connection.transaction():
                if not epoch_checked:
                    await rotate_epoch_if_moved(connection)
                events = await number_events(connection, size=BATCH)
                publish(events)
        except Exception as error:  # noqa: BLE001 - the driver raises more than its own errors; none may end this
            epoch_checked = False  # the next answer may come from another server
            log.warning("numbering failed, retrying", error=describe(error))
            await pause(stop, 1)
            continue
        epoch_checked = True
        failpoint("numbering-committed")
        notify(events)
        NUMBERED.inc(len(events))
        if len(events) < BATCH:
            await pause(stop, min(max(len(events), 1) * GATHER, MAX_GATHER))
