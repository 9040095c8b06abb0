"""The description of a broker's fault: one line for an operator, without secrets and message texts."""

import ssl

import amqp.exceptions as amqp
import pytest
import redis.exceptions as redis
from kombu.exceptions import OperationalError

from shared.broker.faults import BrokerBlockedError, describe_error, is_broker_error
from shared.broker.status import Reason


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (amqp.AccessRefused("ACCESS_REFUSED - Login was refused using PLAIN."), Reason.REFUSED, "user or the password"),
        (amqp.AccessRefused("ACCESS_REFUSED - access to queue 'q' refused"), Reason.REFUSED, "lacks a permission"),
        (amqp.NotAllowed("NOT_ALLOWED - vhost shop not found"), Reason.REFUSED, "virtual host (NOT_ALLOWED - vhost"),
        (amqp.PreconditionFailed("inequivalent arg 'durable'"), Reason.QUEUE_MISMATCH, "exists with other arguments"),
        (amqp.ConnectionForced("CONNECTION_FORCED - shutdown"), Reason.UNREACHABLE, "CONNECTION_FORCED"),
        (amqp.MessageNacked(), Reason.OUT_OF_SPACE, "accepts no messages"),
        (BrokerBlockedError("low on memory"), Reason.OUT_OF_SPACE, "low on memory"),
        (redis.AuthenticationError("invalid username-password pair"), Reason.REFUSED, "user or the password"),
        (redis.NoPermissionError("User w has no permissions"), Reason.REFUSED, "permission (User w has no"),
        (redis.ReadOnlyError("You can't write against a read only replica."), Reason.READ_ONLY, "read-only replica"),
        (redis.ResponseError("UNBLOCKED force unblock"), Reason.READ_ONLY, "made a replica"),
        (redis.OutOfMemoryError("command not allowed"), Reason.OUT_OF_SPACE, "out of memory"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), Reason.OUT_OF_SPACE, "its disk"),
        (redis.BusyLoadingError("dataset in memory"), Reason.STARTING, "loading"),
        (redis.ResponseError("DB index is out of range"), Reason.REFUSED, "no database of this number"),
        (redis.TimeoutError("Timeout reading from socket"), Reason.TIMEOUT, "does not answer"),
        (TimeoutError(), Reason.TIMEOUT, "does not answer"),
        (ConnectionRefusedError(111, "Connection refused"), Reason.UNREACHABLE, "reached: Connection refused"),
        (ValueError("our own fault"), Reason.OTHER, "ValueError"),
    ],
)
def test_each_fault_has_a_reason_and_a_plain_description(error: Exception, reason: Reason, words: str) -> None:
    fault = describe_error(error)
    assert fault.reason == reason
    assert words in fault.detail
    assert is_broker_error(error) == (reason != Reason.OTHER)


def test_a_wrapped_error_is_found() -> None:
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed: Hostname mismatch")
    inner.verify_message = "Hostname mismatch"
    middle, outer = redis.ConnectionError("Error 1 connecting"), OperationalError("Error 1 connecting")
    outer.__cause__, middle.__context__ = middle, inner
    assert describe_error(outer) == (
        Reason.CERTIFICATE,
        "the broker's certificate cannot be verified: Hostname mismatch",
    )


@pytest.mark.parametrize(
    "error",
    [
        redis.OutOfMemoryError("Command # 1 (LPUSH queue Dear Anna) of pipeline caused error: command not allowed"),
        redis.ResponseError("unknown command 'LPUSH', with args beginning with: 'Dear Anna'"),
        redis.ResponseError("Command # 1 (LPUSH queue Dear Anna) of pipeline caused error: wrong kind of value"),
    ],
)
def test_published_data_is_never_quoted(error: Exception) -> None:
    assert "Anna" not in describe_error(error).detail


def test_a_long_reply_becomes_a_short_line() -> None:
    detail = describe_error(amqp.NotAllowed("far\ntoo\tmuch " * 100)).detail
    assert len(detail) < 300
    assert "\n" not in detail
