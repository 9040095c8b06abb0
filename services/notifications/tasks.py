"""The Celery tasks: thin and idempotent by event id. Losing a task loses no work."""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import mkstemp
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
import uvloop
from celery import Celery, Task
from celery.signals import task_unknown, worker_shutting_down
from pydantic import ValidationError

from services.notifications.delivery.leases import PendingWork, pending_work
from services.notifications.delivery.sender import drain
from services.notifications.event_consumer.consumer import UNKNOWN_TASK, park_event, receive_events
from services.notifications.mail.pool import ServerCapacity
from services.notifications.settings import EmailSettings
from shared.broker.celery_app import EMAILS_QUEUE, SEND_EMAILS, TASKS
from shared.broker.publisher import Publisher
from shared.database.engine import close_engine, create_engine
from shared.database.readiness import wait_for_database
from shared.database.transactions import SessionFactory, connection_provider, create_sessions
from shared.events import Event, EventType
from shared.process.failpoints import failpoint

T = TypeVar("T")

DRAIN_LIMIT = 10.0  # seconds until a task starts no further email; the next task comes within a second
MAX_SENDERS = 2  # of a worker at the same time, and at most half of its children: the others handle events
SECOND_SENDER_DELAY = 0.5  # seconds that an email is left to the first sender, whose batches get larger and cheaper

log = structlog.get_logger()


class AsyncWork:
    """Runs coroutines in a pool child, with one event loop that is created after the fork.

    The engine is created before it, without connections, so that the children share what the engine has loaded.
    """

    def __init__(self, database_url: str) -> None:
        self._engine = create_engine(database_url, application="chats-worker", pool_size=6)
        self._sessions = create_sessions(self._engine)
        self._runner: asyncio.Runner | None = None

    async def wait_for_database(self, version: str) -> None:
        """Wait in the main process until the database is ready, and leave no connection for the fork."""
        await wait_for_database(self._engine, version)
        await close_engine(self._engine)

    def run(self, work: Callable[[SessionFactory], Awaitable[T]]) -> T:
        """Run `work(sessions)` until it completes."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

        async def main() -> T:
            return await work(self._sessions)

        return self._runner.run(main())

    def close(self) -> None:
        """Close the connections and the loop."""
        if self._runner is not None:
            self._runner.run(close_engine(self._engine))
            self._runner.close()
        self._runner = None


def register_tasks(celery: Celery, settings: EmailSettings, *, senders: int = MAX_SENDERS) -> AsyncWork:
    """Register the worker's tasks: one for each event type, and the one that sends emails. Return what runs them.

    At most `senders` pool children send emails at the same time.
    """
    work, capacity = AsyncWork(settings.notifications_database_url), ServerCapacity()
    publisher = Publisher(celery)  # each pool child connects when it first publishes
    # Created before the pool forks: all pool children see what the main process writes, and none consumes it.
    stopping, stop = os.pipe()

    slots, name = mkstemp()
    os.unlink(name)  # noqa: PTH108 - the children inherit the descriptor

    def wake_sender() -> None:
        """Publish a task to send emails, unless all senders are at work: they look for new emails when they end."""
        if has_free_slot(slots, senders):
            publisher.hint_due_emails()  # the clock does so too, up to a second later
            failpoint("send-published")

    for name in TASKS.values():
        _register_event_task(celery, name, work, wake_sender, settings)

    @celery.task(name=SEND_EMAILS, queue=EMAILS_QUEUE, shared=False)
    def send_emails() -> None:
        with sender_slot(slots, senders) as slot:
            if slot is None:
                return
            overdue = slot * SECOND_SENDER_DELAY
            attempts = work.run(lambda sessions: _drain_for_a_while(sessions, settings, stopping, overdue, capacity))
        # An email that was created meanwhile, when this slot was still taken, has woken nobody.
        if attempts and any(work.run(lambda sessions: _read_pending(sessions, overdue))):
            publisher.hint_due_emails()

    @worker_shutting_down.connect(weak=False)
    def stop_pool(**_: Any) -> None:
        os.write(stop, b".")

    @task_unknown.connect(weak=False)
    def park_unknown(name: str, id: str, message: Any = None, **_: Any) -> None:  # noqa: A002 - the signal's name
        # This runs in the worker's main process, which has no loop. The event is kept for a retry: it may come from a
        # newer relay, and the newer sweeper skips parked events too.
        unknown = AsyncWork(settings.notifications_database_url)
        try:
            unknown.run(lambda sessions: _park(sessions, id, name, UNKNOWN_TASK, _first_argument(message)))
        finally:
            unknown.close()

    return work


def _register_event_task(
    celery: Celery, name: str, work: AsyncWork, wake_sender: Callable[[], None], settings: EmailSettings
) -> None:
    @celery.task(name=name, bind=True, shared=False)
    def handle(task: "Task[Any, Any]", *payloads: Any, **_: Any) -> None:
        failpoint("task-begun")
        task_id = str(task.request.id)
        events, broken = _read_events(payloads or (None,))
        for payload, reason in broken:
            # The id of a task with one event is the event's id.
            own_id = task_id if len(payloads) <= 1 else str(payload.get("id")) if isinstance(payload, dict) else ""
            work.run(partial(_park, task_id=own_id, name=name, reason=reason, payload=payload))
        if not events:
            return
        repeated = bool((task.request.delivery_info or {}).get("redelivered"))
        work.run(lambda sessions: receive_events(sessions, events, settings, repeated=repeated))
        failpoint("task-handled")
        if name == TASKS[EventType.MESSAGE_POSTED] and settings.email_delay_seconds == 0:
            wake_sender()


def _read_events(payloads: Sequence[Any]) -> tuple[list[Event], list[tuple[Any, str]]]:
    """Return the events of a task, and its invalid payloads with the reasons."""
    events, broken = [], []
    for payload in payloads:
        try:
            events.append(Event.model_validate(payload))
        except ValidationError as error:
            broken.append((payload, f"invalid event: {error.errors()[0]['loc']}"))
    return events, broken


@contextmanager
def sender_slot(file: int, slots: int) -> Iterator[int | None]:
    """Acquire one of the slots to send emails from this worker; None if all are taken.

    The senders that have the slots find new due emails. The kernel releases the locks of a child that dies.
    """
    slot = next((slot for slot in range(slots) if _lock(file, slot)), None)
    try:
        yield slot
    finally:
        if slot is not None:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, slot)


def has_free_slot(file: int, slots: int) -> bool:
    """Return whether a sender could begin. One that tries to at this moment is refused."""
    with sender_slot(file, slots) as slot:
        return slot is not None


def _lock(file: int, slot: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
    except OSError:
        return False
    return True


async def _drain_for_a_while(
    sessions: SessionFactory, settings: EmailSettings, stopping: int, overdue: float, capacity: ServerCapacity
) -> int:
    """Send emails for `DRAIN_LIMIT` seconds, or until the pipe `stopping` becomes readable; return the attempts."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def set_stop() -> None:
        stop.set()
        loop.remove_reader(stopping)

    loop.add_reader(stopping, set_stop)
    try:
        return await drain(sessions, settings, stop, overdue=overdue, limit=DRAIN_LIMIT, capacity=capacity)
    finally:
        loop.remove_reader(stopping)


async def _read_pending(sessions: SessionFactory, overdue: float) -> PendingWork:
    async with connection_provider(sessions.kw["bind"])() as connection:
        return await pending_work(connection, overdue=overdue)


def _first_argument(message: Any) -> Any:
    """Return the first argument of a task that Celery does not know; None if there is none."""
    try:
        [first, *_], *_ = message.payload
    except Exception:  # noqa: BLE001 - the message may have any shape
        return None
    return first


async def _park(sessions: SessionFactory, task_id: str, name: str, reason: str, payload: Any) -> None:
    try:
        event_id = UUID(task_id)
    except ValueError:
        event_id = uuid4()
    await park_event(sessions, event_id, name, reason, payload if isinstance(payload, dict) else None)
