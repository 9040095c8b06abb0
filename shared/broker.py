"""Celery and kombu, as both services use them: queues, task names, and settings that survive a bad day.

The broker carries hints. All it holds may be lost: the event log and the tables of due mail keep the promise.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu import Queue

from shared.events import PAYLOADS, Event
from shared.failpoints import failpoint
from shared.tls import broker_tls

EVENTS_QUEUE = "chats.events"
EMAILS_QUEUE = "chats.emails"
SEND_EMAILS = "notifications.send_emails"

# Events that were numbered together travel together, under the id of the first: a task costs more than an event does.
# Not more of them, so that the workers share what comes at once.
EVENTS_IN_TASK = 50
TASK_TIME_LIMIT = 900  # seconds: longer than the 600 s that a mail server may take to answer the final dot

_REDIS_OPTIONS = {
    "visibility_timeout": TASK_TIME_LIMIT + 60,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "global_keyprefix": "chats:",
}
_RABBITMQ_OPTIONS = {"confirm_publish": True}


def task_name(event_type: str) -> str:
    """Return the name of the task that handles an event of this type."""
    return f"notifications.{event_type.replace('.', '_')}"


TASKS = {event_type: task_name(event_type) for event_type in PAYLOADS}


def create_celery(broker_url: str, *, client: str) -> Celery:
    """Make the Celery application. `client` names this process to the broker."""
    redis = urlsplit(broker_url).scheme.startswith("redis")
    plain_url, tls = broker_tls(broker_url)
    app = Celery("chats", broker=plain_url, set_as_current=False)
    app.conf.update(
        broker_use_ssl=tls or False,
        broker_transport_options={**_REDIS_OPTIONS, "client_name": client} if redis else _RABBITMQ_OPTIONS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=5,
        # By queue name, never through an exchange: on Redis a binding is a key, and FLUSHALL takes it away.
        task_queues=[_queue(name, redis=redis) for name in (EVENTS_QUEUE, EMAILS_QUEUE)],
        task_default_queue=EVENTS_QUEUE,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_publish_retry=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=TASK_TIME_LIMIT,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
    )
    return app


def publish_events(app: Celery, events: Sequence[Event]) -> None:
    """Hand events to the workers, those of a type together. Raises what the broker raises; nothing is retried here."""
    # What is sent through the producer within its batch goes out as one pipeline; kombu 5.7's stubs lack it.
    with app.producer_pool.acquire(block=True, timeout=5) as producer, producer.batch():  # type: ignore[attr-defined]
        for event_type, task in TASKS.items():
            those = [event for event in events if event.type == event_type]
            for start in range(0, len(those), EVENTS_IN_TASK):
                some = those[start : start + EVENTS_IN_TASK]
                app.send_task(
                    task,
                    args=[event.model_dump(mode="json") for event in some],
                    task_id=str(some[0].id),
                    queue=EVENTS_QUEUE,
                    producer=producer,
                    # What Flower and the worker's log show: ids, no text and no address.
                    argsrepr=f"({', '.join(f'event {event.id} at {event.position}' for event in some)})",
                    kwargsrepr="{}",
                )
        failpoint("hints-written")


def hint_due_mail(app: Celery) -> None:
    """Tell a worker that mail is due now. The hint is worth nothing once the next one is out, so it expires."""
    app.send_task(SEND_EMAILS, queue=EMAILS_QUEUE, expires=10, argsrepr="()", kwargsrepr="{}")


def _queue(name: str, *, redis: bool) -> Queue:
    arguments: dict[str, Any] = {} if redis else {"x-queue-type": "quorum"}
    return Queue(name, routing_key=name, queue_arguments=arguments)
