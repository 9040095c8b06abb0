"""How the worker's Celery consumer stands with the broker, which Celery itself tells in its log only."""

import logging
from collections.abc import Callable
from typing import Any, Final

from celery import Celery, bootsteps
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import worker_init
from celery.worker.consumer import consumer

from shared.broker_faults import Fault, explain, is_broker_fault

SETTLED: Final = 1.0  # seconds that a connection lasts until it counts: one that is refused a command breaks at once

# By their templates, which celery-types does not know.
_QUOTING = {
    getattr(consumer, name)
    for name in ("UNKNOWN_FORMAT", "UNKNOWN_TASK_ERROR", "INVALID_TASK_ERROR", "MESSAGE_DECODE_ERROR")
}
_WORKER = "celery.worker"  # the loggers' names
_TIMERS = "kombu.asynchronous.hub"
_PENDING = CPendingDeprecationWarning.__name__
_FREQUENT = "Frequent restarts detected"
_UNRECOVERABLE = "Unrecoverable error"

Tell = Callable[[Fault | None], None]


class CeleryRunner:
    """Runs a Celery worker. `tell` hears of each fault with the broker, and None when the worker consumes.

    `refusal` is the fault that ended the worker, if it was one of the broker.
    """

    def __init__(self, celery: Celery, tell: Tell) -> None:
        self.refusal: Fault | None = None
        self._celery = celery
        self._tell = tell
        self._exit_code: Callable[[], int] = lambda: 0

    def run(self, *options: str) -> int:
        """Run until the worker is told to stop, or cannot go on; return its exit code."""

        @worker_init.connect(weak=False)
        def know(sender: Any, **_: Any) -> None:
            self._exit_code = lambda: int(sender.exitcode or 0)

        # Celery warns at each loss of the connection of what it may do differently some day.
        logging.getLogger("py.warnings").addFilter(lambda record: _PENDING not in record.getMessage())
        self._celery.steps["consumer"].add(_step(self._tell))
        logging.getLogger(consumer.__name__).addFilter(self._hear)
        logging.getLogger(_TIMERS).addFilter(lambda record: not any(map(is_broker_fault, _errors(record))))
        logging.getLogger(_WORKER).addFilter(self._hear_the_end)
        self._celery.worker_main(
            ["worker", *options, "--without-mingle", "--without-gossip", "--loglevel=WARNING", "--events"]
        )
        return self._exit_code()  # `worker_main` returns normally, whatever happened

    def _hear(self, record: logging.LogRecord) -> bool:
        """Hold back what quotes a message, and what is told at a bounded rate instead."""
        errors = _errors(record)
        if str(record.msg).startswith(_FREQUENT):
            return False
        if errors and record.levelno >= logging.WARNING and is_broker_fault(errors[0]):
            self._tell(explain(errors[0]))
            return False
        return quotes_no_message(record)

    def _hear_the_end(self, record: logging.LogRecord) -> bool:
        """Hold back the traceback of a worker that the broker has refused."""
        errors = _errors(record)
        if not str(record.msg).startswith(_UNRECOVERABLE) or not errors or not is_broker_fault(errors[0]):
            return True
        self.refusal = explain(errors[0])
        self._tell(self.refusal)
        return False


def quotes_no_message(record: logging.LogRecord) -> bool:
    """Hold back those lines of Celery that quote a message."""
    return record.msg not in _QUOTING


def _errors(record: logging.LogRecord) -> list[BaseException]:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return [value for value in arguments if isinstance(value, BaseException)]


def _step(tell: Tell) -> type[bootsteps.StartStopStep]:
    """Make the step of the consumer that comes once its queues are declared and it consumes."""

    class Consumes(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            # Celery cancels the timers of a connection with it.
            parent.timer.call_after(SETTLED, tell, (None,))

    return Consumes
