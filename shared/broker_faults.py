"""Why a broker cannot be used, in words for operators, whatever its client library raises."""

import ssl
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from amqp import exceptions as amqp
from redis import exceptions as redis

MAX_REPLY = 200  # characters of the broker's own words


class Reason(StrEnum):
    """What kind of fault it is: a label in the metrics."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CERTIFICATE = "certificate"
    REFUSED = "refused"
    QUEUE_MISMATCH = "queue_mismatch"
    READ_ONLY = "read_only"
    OUT_OF_SPACE = "out_of_space"
    STARTING = "starting"
    QUEUE_FULL = "queue_full"
    OTHER = "other"


REFUSALS = frozenset({Reason.REFUSED, Reason.QUEUE_MISMATCH})
"""Faults of the set-up: they last until somebody changes it."""


class Fault(NamedTuple):
    """A reason, and one line about it that holds no secret."""

    reason: Reason
    detail: str


class Standing(NamedTuple):
    """How a process stands with the broker: its fault, if any, and since when by the monotonic clock."""

    fault: Fault | None
    changed_at: float


# By how Redis and Valkey begin their replies.
_REDIS_REPLIES = {
    "WRONGPASS": (Reason.REFUSED, "the broker refuses the user or the password"),
    "NOAUTH": (Reason.REFUSED, "the broker asks for a password"),
    "NOPERM": (Reason.REFUSED, "the broker's user lacks a permission"),
    "DB index": (Reason.REFUSED, "the broker has no database of this number"),
    "READONLY": (Reason.READ_ONLY, "the broker is a read-only replica"),
    "UNBLOCKED": (Reason.READ_ONLY, "the broker was made a replica"),
    "MASTERDOWN": (Reason.READ_ONLY, "the broker is a replica without its primary"),
    "NOREPLICAS": (Reason.READ_ONLY, "the broker takes no writes without its replicas"),
    "OOM": (Reason.OUT_OF_SPACE, "the broker is out of memory"),
    "MISCONF": (Reason.OUT_OF_SPACE, "the broker cannot write to its disk"),
    "LOADING": (Reason.STARTING, "the broker is still loading its data"),
    "max number of clients": (Reason.UNREACHABLE, "the broker has too many clients"),
}
_REDIS_ERRORS = {
    redis.NoPermissionError: "NOPERM",
    redis.AuthenticationError: "WRONGPASS",
    redis.ReadOnlyError: "READONLY",
    redis.OutOfMemoryError: "OOM",
    redis.BusyLoadingError: "LOADING",
    redis.MasterDownError: "MASTERDOWN",
    redis.MaxConnectionsError: "max number of clients",
}


class BrokerBlockedError(Exception):
    """RabbitMQ has said that it takes no messages for now: it lacks memory or disk."""


def explain(error: BaseException) -> Fault:
    """Say why the broker could not be used."""
    return next(filter(None, map(_explain, _causes(error))), Fault(Reason.OTHER, type(error).__name__))


def is_broker_fault(error: BaseException) -> bool:
    """Tell whether an error comes from the broker, and is no fault of our own code."""
    return explain(error).reason != Reason.OTHER


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the innermost cause first: libraries wrap what happened into less and less."""
    inner = error.__cause__ or error.__context__
    if inner is not None and not isinstance(inner, redis.ExecAbortError):
        yield from _causes(inner)
    yield error


def _explain(error: BaseException) -> Fault | None:
    fault: Fault | None = None
    match error:
        case ssl.SSLCertVerificationError():
            words = f"the broker's certificate does not verify: {error.verify_message}"
            fault = Fault(Reason.CERTIFICATE, words)
        case ssl.SSLError():
            fault = Fault(Reason.CERTIFICATE, f"the broker does not speak TLS as the URL asks for: {error.reason}")
        case BrokerBlockedError() | amqp.MessageNacked() | amqp.AMQPError():
            fault = _explain_amqp(error)
        case redis.RedisError():
            fault = _explain_redis(error)
    if fault is None and isinstance(error, TimeoutError | redis.TimeoutError):
        fault = Fault(Reason.TIMEOUT, "the broker does not answer")
    if fault is None and isinstance(error, OSError | redis.ConnectionError):
        fault = Fault(Reason.UNREACHABLE, f"the broker cannot be reached: {_brief(error)}")
    return fault


def _explain_redis(error: redis.RedisError) -> Fault | None:
    # A pipeline's error quotes the command, and so what was published.
    words = str(error).rpartition("of pipeline caused error: ")[2]
    # redis-py takes the first word off some replies, and makes a class of it.
    kind = next((start for kind, start in _REDIS_ERRORS.items() if isinstance(error, kind)), None)
    begun = next((start for start in _REDIS_REPLIES if words.startswith(start)), kind)
    if begun is not None:
        reason, detail = _REDIS_REPLIES[begun]
        return Fault(reason, f"{detail} ({_cut(words)})")
    if isinstance(error, redis.ResponseError):  # without its words: they may quote what was published
        return Fault(Reason.REFUSED, f"the broker refuses a command ({type(error).__name__})")
    return None


def _explain_amqp(error: Exception) -> Fault:
    words = _cut(str(getattr(error, "reply_text", None) or error)) or type(error).__name__
    reason, detail = Reason.OTHER, "the broker refuses a command"
    match error:
        case amqp.AccessRefused() if "ogin" in words:  # "Login was refused", "login refused"
            reason, detail = Reason.REFUSED, "the broker refuses the user or the password"
        case amqp.AccessRefused():
            reason, detail = Reason.REFUSED, "the broker's user lacks a permission"
        case amqp.NotAllowed():
            reason, detail = Reason.REFUSED, "the broker refuses the virtual host"
        case amqp.PreconditionFailed() if "inequivalent arg" in words:
            reason, detail = Reason.QUEUE_MISMATCH, "a queue was declared differently: delete it"
        case BrokerBlockedError() | amqp.MessageNacked():
            reason, detail = Reason.OUT_OF_SPACE, "the broker takes no messages, it may lack memory or disk"
        case amqp.ConnectionError() | amqp.NotFound():
            reason, detail = Reason.UNREACHABLE, "the broker cannot be reached"
    return Fault(reason, f"{detail} ({words})")


def _brief(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return _cut(str(strerror or error) or type(error).__name__)


def _cut(words: str) -> str:
    return " ".join(words.split())[:MAX_REPLY]
