"""Changes to Flower's views: a health check that includes the broker, and queue lengths from any RabbitMQ."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from celery import Celery
from flower import urls
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck
from tornado.ioloop import IOLoop

from shared.broker_faults import Reason
from shared.publisher import Publisher

HEALTH: Final = "/healthcheck"


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
