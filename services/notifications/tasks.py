"""The Celery tasks: thin, idempotent by event id, and nothing that a lost task could lose."""

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

from services.notifications.delivery.sender import drain
from services.notifications.event_consumer.consumer import park_event, receive_events
from services.notifications.mail.pool import ServerCapacity
from services.notifications.settings import EmailSettings
from shared.broker import EMAILS_QUEUE, SEND_EMAILS, TASKS
from shared.database import SessionFactory, create_engine, create_sessions
from shared.events import Event, EventType
from shared.failpoints import failpoint
from shared.publisher import Publisher

T = TypeVar("T")

DRAIN_LIMIT = 10.0  # seconds until a task begins no further mail; the next hint is never more than a second away
MAX_SENDERS = 2  # of a worker at once: its other children are left to the events
SECOND_SENDER_DELAY = (
    0.5  # seconds that a mail is left to the first of them: by itself it gathers more at once, which costs less
)

log = structlog.get_logger()


class AsyncWork:
    """Runs coroutines in a pool child: one event loop and one engine for its whole life, made after the fork."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._runner: asyncio.Runner | None = None
        self._sessions: SessionFactory | None = None

    def run(self, work: Callable[[SessionFactory], Awaitable[T]]) -> T:
        """Run `work(sessions)` to its end."""
        if self._runner is None or self._sessions is None:
            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            self._sessions = create_sessions(create_engine(self._database_url, application="chats-worker", pool_size=6))
        sessions = self._sessions

        async def main() -> T:
            return await work(sessions)

        return self._runner.run(main())

    def close(self) -> None:
        """Let go of the connections and the loop."""
        if self._runner is not None and self._sessions is not None:
            self._runner.run(self._sessions.kw["bind"].dispose())
            self._runner.close()
        self._runner = self._sessions = None


def register_tasks(celery: Celery, settings: EmailSettings) -> None:
    """Give the worker its tasks: one for each type of event, and the one that sends mail."""
    work, capacity = AsyncWork(settings.notifications_database_url), ServerCapacity()
    publisher = Publisher(celery)  # each pool child connects by itself, when it first publishes
    # Made before the pool forks: what the main process writes, every pool child sees, and none reads it away.
    stopping, stop = os.pipe()

    for name in TASKS.values():
        _register_event_task(celery, name, work, publisher, settings)

    turns, name = mkstemp()
    os.unlink(name)  # noqa: PTH108 - what its children inherit is enough

    @celery.task(name=SEND_EMAILS, queue=EMAILS_QUEUE, shared=False)
    def send_emails() -> None:
        with sender_slot(turns) as place:
            if place is not None:
                overdue = place * SECOND_SENDER_DELAY
                work.run(lambda sessions: _drain_for_a_while(sessions, settings, stopping, overdue, capacity))

    @worker_shutting_down.connect(weak=False)
    def tell_pool(**_: Any) -> None:
        os.write(stop, b".")

    @task_unknown.connect(weak=False)
    def park_unknown(name: str, id: str, message: Any = None, **_: Any) -> None:  # noqa: A002 - the signal's own name
        # In the worker's main process, which has no pool child's loop. With its event: it may be of a newer relay, and
        # what is parked is passed by the sweeper of the newer version too.
        unknown = AsyncWork(settings.notifications_database_url)
        try:
            unknown.run(lambda sessions: _park(sessions, id, name, "unknown task", _told_by(message)))
        finally:
            unknown.close()


def _register_event_task(
    celery: Celery, name: str, work: AsyncWork, publisher: Publisher, settings: EmailSettings
) -> None:
    @celery.task(name=name, bind=True, shared=False)
    def handle(task: "Task[Any, Any]", *payloads: Any, **_: Any) -> None:
        failpoint("task-begun")
        identity = str(task.request.id)
        events, broken = _read_events(payloads or (None,))
        for payload, reason in broken:
            # Those of several that cannot be read have no name but their own, if any.
            own = identity if len(payloads) <= 1 else str(payload.get("id")) if isinstance(payload, dict) else ""
            work.run(partial(_park, task_id=own, name=name, reason=reason, payload=payload))
        if not events:
            return
        repeated = bool((task.request.delivery_info or {}).get("redelivered"))
        work.run(lambda sessions: receive_events(sessions, events, settings, repeated=repeated))
        failpoint("task-handled")
        if name == TASKS[EventType.MESSAGE_POSTED] and settings.email_delay_seconds == 0:
            publisher.hint_due_mail()  # the clock hints as well
            failpoint("mail-hinted")


def _read_events(payloads: Sequence[Any]) -> tuple[list[Event], list[tuple[Any, str]]]:
    """Read the events of a task; return beside them what is none, each with the reason."""
    events, broken = [], []
    for payload in payloads:
        try:
            events.append(Event.model_validate(payload))
        except ValidationError as error:
            broken.append((payload, f"invalid event: {error.errors()[0]['loc']}"))
    return events, broken


@contextmanager
def sender_slot(file: int) -> Iterator[int | None]:
    """Take a place among the children of this worker that drain; None when all are taken.

    Those who have them see what is due, unless they are just ending: then the clock hints again within a second. The
    kernel takes these locks from a child that dies.
    """
    place = next((one for one in range(MAX_SENDERS) if _lock(file, one)), None)
    try:
        yield place
    finally:
        if place is not None:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def _lock(file: int, place: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True


async def _drain_for_a_while(
    sessions: SessionFactory, settings: EmailSettings, stopping: int, overdue: float, capacity: ServerCapacity
) -> None:
    """Drain until the worker is asked to stop, which the pipe `stopping` tells, or for so long."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def asked() -> None:
        stop.set()
        loop.remove_reader(stopping)

    loop.add_reader(stopping, asked)
    try:
        await drain(sessions, settings, stop, overdue=overdue, limit=DRAIN_LIMIT, capacity=capacity)
    finally:
        loop.remove_reader(stopping)


def _told_by(message: Any) -> Any:
    """Return the first argument of a task that Celery does not know; None when there is none."""
    try:
        [first, *_], *_ = message.payload
    except Exception:  # noqa: BLE001 - it may be of any shape
        return None
    return first


async def _park(sessions: SessionFactory, task_id: str, name: str, reason: str, payload: Any) -> None:
    try:
        identity = UUID(task_id)
    except ValueError:
        identity = uuid4()
    await park_event(sessions, identity, name, reason, payload if isinstance(payload, dict) else None)
