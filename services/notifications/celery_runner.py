"""Run a Celery worker and report its broker connection, which Celery itself only logs."""

import logging
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, bootsteps
from celery.apps.worker import Worker
from celery.concurrency import prefork  # noqa: F401 - loaded before the worker forks, so that its processes share it
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import consumer

from shared.broker.faults import describe_error, is_broker_error
from shared.broker.status import Fault

STABLE_AFTER: Final = 1.0  # seconds until a connection counts: one that may not run a command breaks at once

# celery-types does not know these message templates.
_QUOTING = {
    getattr(consumer, name)
    for name in ("UNKNOWN_FORMAT", "UNKNOWN_TASK_ERROR", "INVALID_TASK_ERROR", "MESSAGE_DECODE_ERROR")
}
_WORKER = "celery.worker"  # logger names
_TIMERS = "kombu.asynchronous.hub"
_PENDING = CPendingDeprecationWarning.__name__
_FREQUENT = "Frequent restarts detected"
_UNRECOVERABLE = "Unrecoverable error"

Report = Callable[[Fault | None], None]


class CeleryRunner:
    """Runs a Celery worker. Calls `report` with each broker fault, and with None when the worker consumes.

    `refusal` is the broker fault that ended the worker, if any.
    """

    def __init__(self, celery: Celery, report: Report) -> None:
        self.refusal: Fault | None = None
        self._celery = celery
        self._report = report

    def run(self, name: str, queues: list[str], concurrency: int) -> int:
        """Run until the worker is stopped or fails; return its exit code. `name` is the worker's node name."""
        # Celery logs a deprecation warning each time the connection is lost.
        logging.getLogger("py.warnings").addFilter(lambda record: _PENDING not in record.getMessage())
        self._celery.steps["consumer"].add(_step(self._report))
        logging.getLogger(consumer.__name__).addFilter(self._filter_consumer_log)
        logging.getLogger(_TIMERS).addFilter(lambda record: not any(map(is_broker_error, _errors(record))))
        logging.getLogger(_WORKER).addFilter(self._filter_worker_log)
        # Not `worker_main`: Celery's command line loads all plugins, and with Flower a web server.
        worker = Worker(
            self._celery,
            hostname=name,
            queues=queues,
            concurrency=concurrency,
            loglevel="WARNING",
            optimization="default",
            without_mingle=True,
            without_gossip=True,
        )
        worker.start()
        return int(worker.exitcode or 0)  # `start` also returns normally after an error

    def _filter_consumer_log(self, record: logging.LogRecord) -> bool:
        """Drop log records that quote a task's message, and broker faults, which are reported instead."""
        errors = _errors(record)
        if str(record.msg).startswith(_FREQUENT):
            return False
        if errors and record.levelno >= logging.WARNING and is_broker_error(errors[0]):
            self._report(describe_error(errors[0]))
            return False
        return quotes_no_message(record)

    def _filter_worker_log(self, record: logging.LogRecord) -> bool:
        """Drop the traceback of a worker that the broker has refused."""
        errors = _errors(record)
        if not str(record.msg).startswith(_UNRECOVERABLE) or not errors or not is_broker_error(errors[0]):
            return True
        self.refusal = describe_error(errors[0])
        self._report(self.refusal)
        return False


def quotes_no_message(record: logging.LogRecord) -> bool:
    """Return whether a log record of Celery does not quote a task's message."""
    return record.msg not in _QUOTING


def _errors(record: logging.LogRecord) -> list[BaseException]:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return [value for value in arguments if isinstance(value, BaseException)]


def _step(report: Report) -> type[bootsteps.StartStopStep]:
    """Return the consumer's step that starts after its queues are declared and it consumes."""

    class ReportConsuming(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            # Celery cancels a connection's timers when it closes.
            parent.timer.call_after(STABLE_AFTER, report, (None,))

    return ReportConsuming
