"""Publish tasks to the broker: one attempt each, with a short timeout, and only while the queue has space.

Tasks are hints: the sweeper handles what is not published. An unusable broker therefore costs one attempt every few
seconds. It is reported in the log at a limited rate, in the metrics, and in the process's report to its database.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final, TypeVar

import structlog
from celery import Celery
from kombu import Connection, Producer
from prometheus_client import Gauge
from redis.exceptions import ExecAbortError

from shared.broker.celery_app import EMAILS_QUEUE, EVENTS_QUEUE, SEND_EMAILS, TASKS
from shared.broker.faults import BrokerBlockedError, describe_error
from shared.broker.status import BrokerStatus, Fault, Reason
from shared.events import Event
from shared.process.failpoints import failpoint

# One task carries several events that were numbered together, under the id of the first: a task costs more than an
# event. The maximum spreads a burst of events over the workers.
EVENTS_IN_TASK: Final = 50
TASK_BYTES: Final = 64 * 1024  # maximum JSON of a task; a single event may be longer

# Maximum number of waiting tasks. The largest takes 160 KiB in Valkey (10,000 emoji), so all of them at most 80 MiB.
EVENTS_LIMIT: Final = 500
EMAILS_LIMIT: Final = 100  # all are the same

PROBE: Final = "probe"  # a key in Redis, a routing key in RabbitMQ
TIMEOUT: Final = 5.0  # seconds for an answer of RabbitMQ; for Redis see `socket_timeout`
UNBLOCKED_TIMEOUT: Final = 0.01  # seconds for the message that RabbitMQ has sent when it no longer blocks us
RETRY: Final = 5.0  # seconds without attempts after a failure
# Counting the tasks of a queue takes as long as publishing one, so it is not done for each. All publishers together may
# exceed the maximum by as many as one publishes without counting.
UNCOUNTED_TASKS: Final = 50
UNCOUNTED_TIME: Final = 6.0  # seconds; a publisher that is idle counts every 5 s
LOG_INTERVAL: Final = 60.0  # seconds between log lines about the same fault

USABLE = Gauge("chats_broker_usable", "1 while this process can use the broker, else 0", ["role"])
FAULT = Gauge("chats_broker_fault", "1 for the reason why this process cannot use the broker", ["role", "reason"])

T = TypeVar("T")

log = structlog.get_logger()


class BrokerState:
    """The broker's state as a process sees it, logged unless `quiet`. `role` is `publisher` or `consumer`.

    `fault` is the state until the first attempt; without it, metrics show nothing until then.
    """

    def __init__(self, role: str, *, quiet: bool = False, fault: Fault | None = None) -> None:
        self.role = role
        self._quiet = quiet
        self.fault = fault
        if fault is not None:
            self._show(None)
        self.changed_at = time.monotonic()
        self._logged_at: dict[Reason | None, float] = {}

    def status(self) -> BrokerStatus:
        """Return the current status."""
        return BrokerStatus(self.fault, self.changed_at)

    def readiness_details(self) -> dict[str, str]:
        """Return the broker's state for `/readyz`. A process is ready even without a broker."""
        return {"broker": self.fault.detail if self.fault else "usable"}

    def record(self, fault: Fault | None) -> None:
        """Record the result of the last attempt: a fault, or None for success."""
        if (fault and fault.reason) != (self.fault and self.fault.reason):
            self.changed_at = time.monotonic()
        previous, self.fault = self.fault, fault
        self._show(previous)
        if not self._quiet and (fault is not None or (previous is not None and self._logged_at)):
            self._log(fault)

    def _show(self, previous: Fault | None) -> None:
        USABLE.labels(self.role).set(self.fault is None)
        for reason in {entry.reason for entry in (previous, self.fault) if entry}:
            FAULT.labels(self.role, reason).set(self.fault is not None and self.fault.reason == reason)

    def _log(self, fault: Fault | None) -> None:
        reason, now = fault and fault.reason, time.monotonic()
        if now - self._logged_at.get(reason, -LOG_INTERVAL) < LOG_INTERVAL:
            return
        self._logged_at[reason] = now
        if fault is None:
            log.info("broker usable again", role=self.role)
        elif fault.reason == Reason.QUEUE_FULL:
            log.warning("queue full, the sweeper takes over", role=self.role, reason=fault.detail)
        else:
            log.warning("broker unusable, the sweeper takes over", role=self.role, reason=fault.detail)


class Publisher:
    """Publishes over its own connection, which is opened at first use. Use it from one thread at a time."""

    def __init__(self, celery: Celery, *, retry: float = RETRY, quiet: bool = False) -> None:
        self._retry = retry
        self.state = BrokerState("publisher", quiet=quiet)
        self.waiting: int | None = None  # tasks in the events queue at the last attempt
        self._celery = celery
        self._connection: Connection | None = None
        self._blocked: str | None = None  # RabbitMQ's reason, while it blocks the connection
        self._retry_at = 0.0
        self._full: Fault | None = None
        self._uncounted: dict[str, tuple[int, float]] = {}  # tasks to publish without counting, until when; by queue

    def probe(self) -> None:
        """Check whether the broker is usable, and how many tasks wait. Raises nothing."""

        def probe(producer: Producer) -> None:
            _write(producer)
            self._uncounted.clear()
            self._capacity(producer, EVENTS_QUEUE, EVENTS_LIMIT)

        self._attempt(probe)

    def publish_events(self, events: Sequence[Event]) -> list[Event]:
        """Publish tasks for events, grouped by type. Return the events that the broker accepted. Raises nothing."""

        def publish(producer: Producer) -> list[Event]:
            tasks = list(_tasks(events))
            tasks = tasks[: self._capacity(producer, EVENTS_QUEUE, EVENTS_LIMIT, len(tasks))]
            # Sends several tasks as one pipeline. The stubs of kombu 5.7 lack `batch`.
            with producer.batch() if len(tasks) > 1 else nullcontext():  # type: ignore[attr-defined]
                for name, batch, contents in tasks:
                    self._celery.send_task(
                        name,
                        args=contents,
                        task_id=str(batch[0].id),
                        queue=EVENTS_QUEUE,
                        producer=producer,
                        # Shown by Flower and the worker's log: ids only, no text and no address.
                        argsrepr=f"({', '.join(f'event {event.id} at {event.position}' for event in batch)})",
                        kwargsrepr="{}",
                    )
                failpoint("hints-written")
            return [event for _, batch, _ in tasks for event in batch]

        return self._attempt(publish) or []

    def hint_due_emails(self) -> bool:
        """Publish a task to send due emails. It expires, because the next one replaces it."""

        def publish(producer: Producer) -> bool:
            if not self._capacity(producer, EMAILS_QUEUE, EMAILS_LIMIT):
                return False
            self._celery.send_task(
                SEND_EMAILS, queue=EMAILS_QUEUE, producer=producer, expires=10, argsrepr="()", kwargsrepr="{}"
            )
            return True

        return bool(self._attempt(publish))

    def close(self) -> None:
        """Close the connection."""
        if (connection := self._connection) is not None:
            self._connection = self._blocked = None
            self._uncounted.clear()
            with suppress(Exception):  # it may be broken in any way
                connection.collect(1)

    def _attempt(self, work: Callable[[Producer], T]) -> T | None:
        """Do some work with the broker. Return None if it is unusable."""
        if self.state.fault and self.state.fault.reason != Reason.QUEUE_FULL and time.monotonic() < self._retry_at:
            return None
        self._full = None
        try:
            self._require_unblocked()
            connection = self._connection = self._connection or self._celery.connection_for_write()
            with self._celery.amqp.Producer(connection, auto_declare=False) as producer, self._bounded(producer):
                result = _with_cause(work, producer)
        except Exception as error:  # noqa: BLE001 - kombu raises many types; none may reach the caller
            # Never reuse the connection: a demoted server keeps answering, while its name may lead to another one now.
            # But RabbitMQ does not notice that a connection closes while it blocks it, so each attempt would leave one.
            if not self._blocked:
                self.close()
            self._retry_at = time.monotonic() + self._retry
            self.state.record(describe_error(error))
            return None
        self.state.record(self._full)
        return result

    @contextmanager
    def _bounded(self, producer: Producer) -> Iterator[None]:
        """Set a timeout for RabbitMQ. Otherwise py-amqp waits forever, also while RabbitMQ lacks memory or disk."""
        channel: Any = producer.channel
        amqp = channel.connection
        if not hasattr(amqp, "transport"):  # Redis
            yield
            return
        amqp.on_blocked, amqp.on_unblocked = self._block, self._unblock
        with amqp.transport.having_timeout(TIMEOUT):
            yield

    def _block(self, reason: str) -> None:
        self._blocked = reason
        raise BrokerBlockedError(reason)

    def _unblock(self) -> None:
        self._blocked = None

    def _require_unblocked(self) -> None:
        """Raise `BrokerBlockedError` while RabbitMQ blocks the connection. Then close it: late replies may follow."""
        connection, reason = self._connection, self._blocked
        if connection is None or reason is None:
            return
        with suppress(TimeoutError):
            while self._blocked:
                connection.drain_events(timeout=UNBLOCKED_TIMEOUT)
        if self._blocked:
            raise BrokerBlockedError(reason)
        self.close()

    def _capacity(self, producer: Producer, name: str, limit: int, wanted: int = 1) -> int:
        """Return how many more tasks fit in a queue: at least those wanted, if there is room for them."""
        uncounted, until = self._uncounted.get(name, (0, 0.0))
        if wanted > uncounted or time.monotonic() > until:
            capacity = self._count_capacity(producer, name, limit)
            uncounted, until = min(capacity, UNCOUNTED_TASKS), time.monotonic() + UNCOUNTED_TIME
        else:
            capacity = uncounted
        self._uncounted[name] = max(uncounted - wanted, 0), until
        return capacity

    def _count_capacity(self, producer: Producer, name: str, limit: int) -> int:
        """Count how many more tasks fit in a queue. Declares it, which also detects a mismatch."""
        queue = self._celery.amqp.queues[name]
        channel: Any = producer.channel
        declared = channel.queue_declare(
            queue=name, durable=queue.durable, auto_delete=queue.auto_delete, arguments=queue.queue_arguments
        )
        waiting = int(declared.message_count)
        if name == EVENTS_QUEUE:
            self.waiting = waiting
        capacity = max(limit - waiting, 0)
        if not capacity:
            detail = f"{waiting} tasks wait in {name}: are workers running that consume it?"
            self._full = Fault(Reason.QUEUE_FULL, detail)
        return capacity


def _tasks(events: Sequence[Event]) -> Iterator[tuple[str, list[Event], list[Any]]]:
    """Yield the tasks for events: the name of each, its events, and their JSON."""
    for event_type, name in TASKS.items():
        batch: list[Event] = []
        contents: list[Any] = []
        size = 0
        for event in events:
            if event.type != event_type:
                continue
            content = event.model_dump(mode="json")
            length = len(json.dumps(content))
            if batch and (len(batch) == EVENTS_IN_TASK or size + length > TASK_BYTES):
                yield name, batch, contents
                batch, contents, size = [], [], 0
            batch.append(event)
            contents.append(content)
            size += length
        if batch:
            yield name, batch, contents


def _with_cause(work: Callable[[Producer], T], producer: Producer) -> T:
    """Do the work. If Redis aborts a transaction as a whole, raise the cause."""
    try:
        return work(producer)
    except ExecAbortError:
        _write(producer)
        raise


def _write(producer: Producer) -> None:
    """Write to the broker: one that accepts no writes still answers reads."""
    channel: Any = producer.channel
    if hasattr(channel, "conn_or_acquire"):  # Redis
        with channel.conn_or_acquire() as client:
            client.set(PROBE, "", px=1000)
    else:  # RabbitMQ discards it, because no queue has this name
        producer.publish("", exchange="", routing_key=f"chats.{PROBE}", retry=False)
