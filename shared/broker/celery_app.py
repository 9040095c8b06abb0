"""Celery for both services: queues, task names, and settings that tolerate outages.

Tasks are only hints and may be lost: the event log and the table of emails hold the work to do.
"""

from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu import Queue

from shared.events import PAYLOADS, UNPUBLISHED
from shared.tls import broker_tls

# Never change a queue's arguments: RabbitMQ refuses to declare it with others. Use a new name instead.
EVENTS_QUEUE = "chats.hints.events"
EMAILS_QUEUE = "chats.hints.emails"
SEND_EMAILS = "notifications.send_emails"

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
    "priority_steps": [0],  # tasks have no priorities; by default a queue is four lists, which are counted each time
    "max_retries": 0,
}
# `max_retries` applies to connecting as a publisher, where kombu would retry for 6 s. Consumers have other settings.
_RABBITMQ_OPTIONS = {"confirm_publish": True, "write_timeout": 5, "max_retries": 0}


def _task_name(event_type: str) -> str:
    """Return the name of the task that handles an event of this type."""
    return f"notifications.{event_type.replace('.', '_')}"


TASKS = {event_type: _task_name(event_type) for event_type in PAYLOADS if event_type not in UNPUBLISHED}


def create_celery(broker_url: str, *, client: str) -> Celery:
    """Create the Celery application. `client` is the process's name at the broker."""
    redis = urlsplit(broker_url).scheme.startswith("redis")
    plain_url, tls = broker_tls(broker_url)
    app = Celery("chats", broker=plain_url, set_as_current=False)
    app.conf.update(
        broker_use_ssl=tls or False,
        broker_transport_options={**_REDIS_OPTIONS, "client_name": client} if redis else _RABBITMQ_OPTIONS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A demoted Redis answers with errors until clients reconnect, maybe to another server. RabbitMQ's errors are
        # permanent.
        broker_channel_error_retry=redis,
        broker_pool_acquire_timeout=5,
        # Route by queue name, not through an exchange: on Redis a binding is a key, which FLUSHALL deletes.
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
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


def _queue(name: str, *, redis: bool) -> Queue:
    # Not a quorum queue: Celery would declare 28 more for delays, which are not used, and tasks may be lost.
    arguments: dict[str, Any] = {} if redis else {"x-queue-type": "classic"}
    return Queue(name, routing_key=name, queue_arguments=arguments)
