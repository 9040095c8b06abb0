"""Describe broker errors for operators, for all exceptions of the client libraries."""

import ssl
from collections.abc import Iterator

from amqp import exceptions as amqp
from redis import exceptions as redis

from shared.broker.status import Fault, Reason

MAX_REPLY = 200  # characters of the broker's own message


# By the first words of replies of Redis and Valkey.
_REDIS_REPLIES = {
    "WRONGPASS": (Reason.REFUSED, "the broker refuses the user or the password"),
    "NOAUTH": (Reason.REFUSED, "the broker requires a password"),
    "NOPERM": (Reason.REFUSED, "the broker's user lacks a permission"),
    "DB index": (Reason.REFUSED, "the broker has no database of this number"),
    "READONLY": (Reason.READ_ONLY, "the broker is a read-only replica"),
    "UNBLOCKED": (Reason.READ_ONLY, "the broker was made a replica"),
    "MASTERDOWN": (Reason.READ_ONLY, "the broker is a replica without its primary"),
    "NOREPLICAS": (Reason.READ_ONLY, "the broker accepts no writes without its replicas"),
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
    """RabbitMQ has reported that it accepts no messages, because it lacks memory or disk."""


def describe_error(error: BaseException) -> Fault:
    """Return why the broker could not be used."""
    return next(filter(None, map(_describe, _causes(error))), Fault(Reason.OTHER, type(error).__name__))


def is_broker_error(error: BaseException) -> bool:
    """Return whether an error comes from the broker and not from a bug."""
    return describe_error(error).reason != Reason.OTHER


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes, innermost first: each wrapper loses details."""
    inner = error.__cause__ or error.__context__
    if inner is not None and not isinstance(inner, redis.ExecAbortError):
        yield from _causes(inner)
    yield error


def _describe(error: BaseException) -> Fault | None:
    fault: Fault | None = None
    match error:
        case ssl.SSLCertVerificationError():
            fault = Fault(Reason.CERTIFICATE, f"the broker's certificate cannot be verified: {error.verify_message}")
        case ssl.SSLError():
            fault = Fault(Reason.CERTIFICATE, f"TLS with the broker failed: {error.reason}")
        case BrokerBlockedError() | amqp.MessageNacked() | amqp.AMQPError():
            fault = _describe_amqp(error)
        case redis.RedisError():
            fault = _describe_redis(error)
    if fault is None and isinstance(error, TimeoutError | redis.TimeoutError):
        fault = Fault(Reason.TIMEOUT, "the broker does not answer")
    if fault is None and isinstance(error, OSError | redis.ConnectionError):
        fault = Fault(Reason.UNREACHABLE, f"the broker cannot be reached: {_brief(error)}")
    return fault


def _describe_redis(error: redis.RedisError) -> Fault | None:
    # A pipeline's error quotes the command, with the published content.
    reply = str(error).rpartition("of pipeline caused error: ")[2]
    # redis-py removes the first word of some replies and raises a class for it.
    default = next((prefix for kind, prefix in _REDIS_ERRORS.items() if isinstance(error, kind)), None)
    prefix = next((prefix for prefix in _REDIS_REPLIES if reply.startswith(prefix)), default)
    if prefix is not None:
        reason, detail = _REDIS_REPLIES[prefix]
        return Fault(reason, f"{detail} ({_cut(reply)})")
    if isinstance(error, redis.ResponseError):  # without its message, which may quote published content
        return Fault(Reason.REFUSED, f"the broker refuses a command ({type(error).__name__})")
    return None


def _describe_amqp(error: Exception) -> Fault:
    reply = _cut(str(getattr(error, "reply_text", None) or error)) or type(error).__name__
    reason, detail = Reason.OTHER, "the broker refuses a command"
    match error:
        case amqp.AccessRefused() if "ogin" in reply:  # "Login was refused", "login refused"
            reason, detail = Reason.REFUSED, "the broker refuses the user or the password"
        case amqp.AccessRefused():
            reason, detail = Reason.REFUSED, "the broker's user lacks a permission"
        case amqp.NotAllowed():
            reason, detail = Reason.REFUSED, "the broker refuses the virtual host"
        case amqp.PreconditionFailed() if "inequivalent arg" in reply:
            reason, detail = Reason.QUEUE_MISMATCH, "a queue exists with other arguments: delete it"
        case BrokerBlockedError() | amqp.MessageNacked():
            reason, detail = Reason.OUT_OF_SPACE, "the broker accepts no messages, it may lack memory or disk"
        case amqp.ConnectionError() | amqp.NotFound():
            reason, detail = Reason.UNREACHABLE, "the broker cannot be reached"
    return Fault(reason, f"{detail} ({reply})")


def _brief(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return _cut(str(strerror or error) or type(error).__name__)


def _cut(text: str) -> str:
    return " ".join(text.split())[:MAX_REPLY]
