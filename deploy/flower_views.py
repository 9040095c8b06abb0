"""What we change of Flower's own pages: its health knows the broker, and it finds the queues of any RabbitMQ."""

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
    """Change Flower, before it is started."""
    one_at_a_time = ThreadPoolExecutor(1, thread_name_prefix="broker")
    publisher = Publisher(celery)

    class Health(Healthcheck):  # type: ignore[misc]
        async def get(self) -> None:
            await IOLoop.current().run_in_executor(one_at_a_time, publisher.look)
            fault = publisher.state.fault
            if fault and fault.reason != Reason.QUEUE_FULL:
                self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
                self.write(f"{fault.detail}\n")
            else:
                await super().get()

    urls.handlers.insert(0, (HEALTH, Health))  # the first that matches is taken
    own = BaseHandler.get_broker

    def get_broker(handler: Any) -> Any:
        if handler.application.transport == "amqp" and not handler.application.options.broker_api:
            return _Queues(celery, one_at_a_time)
        return own(handler)

    BaseHandler.get_broker = get_broker


class _Queues:
    """The queues of a RabbitMQ by AMQP itself: Flower asks the management plugin, which has another port and login."""

    def __init__(self, celery: Celery, one_at_a_time: ThreadPoolExecutor) -> None:
        self._celery = celery
        self._one_at_a_time = one_at_a_time

    async def queues(self, names: list[str]) -> list[dict[str, Any]]:
        """Count what waits in queues, and who takes it."""
        return await IOLoop.current().run_in_executor(self._one_at_a_time, partial(self._count, names))

    def _count(self, names: list[str]) -> list[dict[str, Any]]:
        try:
            with self._celery.connection_for_read() as connection:
                channel: Any = connection.default_channel
                declared = [channel.queue_declare(queue=name, passive=True) for name in names]
        except Exception:  # noqa: BLE001 - whatever is wrong with the broker, the health tells it
            return []
        return [
            {"name": queue.queue, "messages_ready": queue.message_count, "consumers": queue.consumer_count}
            for queue in declared
        ]
