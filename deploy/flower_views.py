"""Changes to Flower: a health check that includes the broker, queue lengths from any RabbitMQ, quick recovery."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

from celery import Celery
from flower import events, urls
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck
from tornado.ioloop import IOLoop

from shared.broker.faults import is_broker_error
from shared.broker.publisher import Publisher
from shared.broker.status import Reason

HEALTH: Final = "/healthcheck"
MAX_WAIT: Final = 30.0  # seconds until Flower tries again to receive events


def install(celery: Celery) -> None:
    """Change Flower's views. Call this before it starts."""
    single_thread = ThreadPoolExecutor(1, thread_name_prefix="broker")
    publisher = Publisher(celery)

    class Health(Healthcheck):  # type: ignore[misc]
        async def get(self) -> None:
            await IOLoop.current().run_in_executor(single_thread, publisher.probe)
            fault = publisher.state.fault
            if fault and fault.reason != Reason.QUEUE_FULL:
                self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
                self.write(f"{fault.detail}\n")
            else:
                await super().get()

    urls.handlers.insert(0, (HEALTH, Health))  # the first match wins
    original = BaseHandler.get_broker

    def get_broker(handler: Any) -> Any:
        if handler.application.transport == "amqp" and not handler.application.options.broker_api:
            return _Queues(celery, single_thread)
        return original(handler)

    BaseHandler.get_broker = get_broker
    _tolerate_outages(publisher, single_thread)


def _tolerate_outages(publisher: Publisher, single_thread: ThreadPoolExecutor) -> None:
    """Log a broker fault at a limited rate, and reconnect soon after it ends.

    Flower would log a traceback every 5 s, and double its wait with each attempt: after a day, to more than a day.
    """
    enable = events.Events.on_enable_events

    async def on_enable_events(this: events.Events) -> None:
        try:
            await enable(this)
        except Exception as error:
            if not is_broker_error(error):
                raise
            await IOLoop.current().run_in_executor(single_thread, publisher.probe)  # this logs the fault

    events.Events.on_enable_events = on_enable_events
    events.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(min(seconds, MAX_WAIT)))
    logging.getLogger(events.__name__).addFilter(_is_no_broker_fault)


def _is_no_broker_fault(record: logging.LogRecord) -> bool:
    """Return whether a log record is about something other than the broker."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(value, Exception) and is_broker_error(value) for value in arguments)


class _Queues:
    """Queue lengths by AMQP. Flower would ask RabbitMQ's management plugin, which has another port and login."""

    def __init__(self, celery: Celery, single_thread: ThreadPoolExecutor) -> None:
        self._celery = celery
        self._single_thread = single_thread

    async def queues(self, names: list[str]) -> list[dict[str, Any]]:
        """Return the number of waiting messages and consumers of each queue."""
        return await IOLoop.current().run_in_executor(self._single_thread, partial(self._count, names))

    def _count(self, names: list[str]) -> list[dict[str, Any]]:
        try:
            with self._celery.connection_for_read() as connection:
                channel: Any = connection.default_channel
                declared = [channel.queue_declare(queue=name, passive=True) for name in names]
        except Exception:  # noqa: BLE001 - the health check reports faults of the broker
            return []
        return [
            {"name": queue.queue, "messages_ready": queue.message_count, "consumers": queue.consumer_count}
            for queue in declared
        ]
