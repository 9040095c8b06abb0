"""Errors of the notifications service's API."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from shared.problems import Problem


class EmailNotFailed(Problem):
    """Only failed and bounced emails can be retried."""

    status = HTTPStatus.CONFLICT
    code = "email-not-failed"
    title = "The email has not failed"


class InboundNotWaiting(Problem):
    """Only held and ignored emails, whose original is kept, can be posted or discarded."""

    status = HTTPStatus.CONFLICT
    code = "inbound-not-waiting"
    title = "The email does not wait for a decision"


class NotRetriable(Problem):
    """A parked event that another attempt could not handle either."""

    status = HTTPStatus.CONFLICT
    code = "event-not-retriable"
    title = "The event cannot be retried"


class InboundRefused(Problem):
    """None of an email's recipients takes it. Providers do not send it again after this status."""

    status = HTTPStatus.NOT_ACCEPTABLE
    code = "inbound-refused"
    title = "No recipient takes this email"
    example: ClassVar[Mapping[str, Any]] = {"reason": "unknown-address"}
