"""Publishing hints to the broker: one attempt each, never for long, and never more than the queue may hold.

A hint that is not published is made up for by the sweeper. So a broker that cannot be used costs one attempt every few
seconds, and is told of: in the log at a bounded rate, in the metrics, and in what the process reports to its database.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import structlog
from celery import Celery
from kombu import Connection, Producer
from prometheus_client import Gauge
from redis.exceptions import ExecAbortError

from shared.broker import EMAILS_QUEUE, EVENTS_QUEUE, SEND_EMAILS, TASKS
from shared.broker_faults import BrokerBlockedError, Fault, Reason, Standing, explain
from shared.events import Event
from shared.failpoints import failpoint

# Events that were numbered together travel together, under the id of the first: a task costs more than an event does.
# Not more of them, so that the workers share what comes at once.
EVENTS_IN_TASK: Final = 50
TASK_BYTES: Final = 64 * 1024  # of JSON, after which another task begins; one event alone may be longer

# Tasks that wait for workers. The largest is 160 KiB in Valkey (10,000 emoji), so that all of them take 80 MiB at most.
EVENTS_LIMIT: Final = 500
EMAILS_LIMIT: Final = 100  # each says the same

PROBE: Final = "probe"  # a key
PATIENCE: Final = 5.0  # seconds that a RabbitMQ may take to answer; Redis has its `socket_timeout`
RETRY: Final = 5.0  # seconds without attempts, once one has failed
REPEAT: Final = 60.0  # seconds between lines in the log about the same fault

USABLE = Gauge("chats_broker_usable", "1 while this process can use the broker, else 0", ["role"])
FAULT = Gauge("chats_broker_fault", "1 for the reason why this process cannot use the broker", ["role", "reason"])

T = TypeVar("T")

log = structlog.get_logger()


class BrokerState:
    """Whether a process can use the broker. `role` is `publisher` or `consumer`."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.fault: Fault | None = None
        self.changed_at = time.monotonic()
        self._said: dict[Reason | None, float] = {}

    def standing(self) -> Standing:
        """Return what is known now."""
        return Standing(self.fault, self.changed_at)

    def about(self) -> dict[str, str]:
        """Return what `/readyz` says of the broker, without which the process is ready all the same."""
        return {"broker": self.fault.detail if self.fault else "usable"}

    def note(self, fault: Fault | None) -> None:
        """Note how the last attempt went: None if well."""
        if (fault and fault.reason) != (self.fault and self.fault.reason):
            self.changed_at = time.monotonic()
        was, self.fault = self.fault, fault
        USABLE.labels(self.role).set(fault is None)
        for reason in {entry.reason for entry in (was, fault) if entry}:
            FAULT.labels(self.role, reason).set(fault is not None and fault.reason == reason)
        if fault is not None or (was is not None and self._said):
            self._say(fault)

    def _say(self, fault: Fault | None) -> None:
        reason, now = fault and fault.reason, time.monotonic()
        if now - self._said.get(reason, -REPEAT) < REPEAT:
            return
        self._said[reason] = now
        if fault is None:
            log.info("the broker can be used again", role=self.role)
        elif fault.reason == Reason.QUEUE_FULL:
            log.warning("hints are held back, the sweeper makes up for them", role=self.role, reason=fault.detail)
        else:
            log.warning("the broker cannot be used, the sweeper makes up for it", role=self.role, reason=fault.detail)


class Publisher:
    """Publishes over a connection of its own, which is made when it is first used. For one thread at a time."""

    def __init__(self, celery: Celery, *, retry: float = RETRY) -> None:
        self._retry = retry
        self.state = BrokerState("publisher")
        self.waiting: int | None = None  # tasks in the queue of events, when it was last looked at
        self._celery = celery
        self._connection: Connection | None = None
        self._retry_at = 0.0
        self._full: Fault | None = None

    def look(self) -> None:
        """Find out whether the broker can be used, and how much waits in it. Raises nothing."""

        def look(producer: Producer) -> None:
            _write(producer)
            self._room(producer, EVENTS_QUEUE, EVENTS_LIMIT)

        self._attempt(look)

    def publish_events(self, events: Sequence[Event]) -> list[Event]:
        """Hand events to the workers, those of a type together. Return those that the broker took; raises nothing."""

        def publish(producer: Producer) -> list[Event]:
            tasks = list(_tasks(events))[: self._room(producer, EVENTS_QUEUE, EVENTS_LIMIT)]
            # What is sent through the producer within its batch goes out as one pipeline; kombu 5.7's stubs lack it.
            with producer.batch():  # type: ignore[attr-defined]
                for name, some, contents in tasks:
                    self._celery.send_task(
                        name,
                        args=contents,
                        task_id=str(some[0].id),
                        queue=EVENTS_QUEUE,
                        producer=producer,
                        # What Flower and the worker's log show: ids, no text and no address.
                        argsrepr=f"({', '.join(f'event {event.id} at {event.position}' for event in some)})",
                        kwargsrepr="{}",
                    )
                failpoint("hints-written")
            return [event for _, some, _ in tasks for event in some]

        return self._attempt(publish) or []

    def hint_due_mail(self) -> bool:
        """Tell a worker that mail is due now. The hint is worth nothing once the next one is out, so it expires."""

        def publish(producer: Producer) -> bool:
            if not self._room(producer, EMAILS_QUEUE, EMAILS_LIMIT):
                return False
            self._celery.send_task(
                SEND_EMAILS, queue=EMAILS_QUEUE, producer=producer, expires=10, argsrepr="()", kwargsrepr="{}"
            )
            return True

        return bool(self._attempt(publish))

    def close(self) -> None:
        """Let go of the connection."""
        if (connection := self._connection) is not None:
            self._connection = None
            with suppress(Exception):  # it may be broken in any way
                connection.collect(1)

    def _attempt(self, work: Callable[[Producer], T]) -> T | None:
        """Do something with the broker; None when it cannot be used."""
        if self.state.fault and self.state.fault.reason != Reason.QUEUE_FULL and time.monotonic() < self._retry_at:
            return None
        self._full = None
        try:
            connection = self._connection = self._connection or self._celery.connection_for_write()
            with self._celery.amqp.Producer(connection, auto_declare=False) as producer, _bounded(producer):
                result = _explicit(work, producer)
        except Exception as error:  # noqa: BLE001 - kombu raises more than its own kind; none may end its caller
            # Never used again: a server that was demoted goes on answering, while another one has its name by now.
            self.close()
            self._retry_at = time.monotonic() + self._retry
            self.state.note(explain(error))
            return None
        self.state.note(self._full)
        return result

    def _room(self, producer: Producer, name: str, limit: int) -> int:
        """Return how many tasks a queue may still take. It is declared for that, so a mismatch is found as well."""
        queue = self._celery.amqp.queues[name]
        channel: Any = producer.channel
        declared = channel.queue_declare(
            queue=name, durable=queue.durable, auto_delete=queue.auto_delete, arguments=queue.queue_arguments
        )
        waiting = int(declared.message_count)
        if name == EVENTS_QUEUE:
            self.waiting = waiting
        room = max(limit - waiting, 0)
        if not room:
            detail = f"{waiting} tasks wait in {name}: are workers running that take them?"
            self._full = Fault(Reason.QUEUE_FULL, detail)
        return room


def _tasks(events: Sequence[Event]) -> Iterator[tuple[str, list[Event], list[Any]]]:
    """Yield the tasks for these events: the name of each, its events, and what they are in JSON."""
    for event_type, name in TASKS.items():
        some: list[Event] = []
        contents: list[Any] = []
        size = 0
        for event in events:
            if event.type != event_type:
                continue
            content = event.model_dump(mode="json")
            length = len(json.dumps(content))
            if some and (len(some) == EVENTS_IN_TASK or size + length > TASK_BYTES):
                yield name, some, contents
                some, contents, size = [], [], 0
            some.append(event)
            contents.append(content)
            size += length
        if some:
            yield name, some, contents


def _explicit(work: Callable[[Producer], T], producer: Producer) -> T:
    """Do the work; of a transaction of Redis that was refused as a whole, raise why it was."""
    try:
        return work(producer)
    except ExecAbortError:
        _write(producer)
        raise


def _write(producer: Producer) -> None:
    """Write something to a Redis: one that takes no writes, as it is a replica or full, answers questions as well."""
    channel: Any = producer.channel
    if hasattr(channel, "conn_or_acquire"):
        with channel.conn_or_acquire() as client:
            client.set(PROBE, "", px=1000)


@contextmanager
def _bounded(producer: Producer) -> Iterator[None]:
    """Give RabbitMQ a time to answer in: py-amqp itself waits for ever, also for one without memory or disk."""
    channel: Any = producer.channel
    amqp = channel.connection
    if not hasattr(amqp, "transport"):  # Redis
        yield
        return
    amqp.on_blocked = _refuse
    with amqp.transport.having_timeout(PATIENCE):
        yield


def _refuse(reason: str) -> None:
    raise BrokerBlockedError(reason)
