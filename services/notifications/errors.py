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
    remedy = "Leave it: the email is on its way, was sent, or is no longer needed."


class InboundNotWaiting(Problem):
    """Only held and ignored emails, whose original is kept, can be posted or discarded."""

    status = HTTPStatus.CONFLICT
    code = "inbound-not-waiting"
    title = "The email does not wait for a decision"
    remedy = "Load the email again: somebody has decided, or its original was purged."


class NotRetriable(Problem):
    """A parked event that another attempt could not handle either."""

    status = HTTPStatus.CONFLICT
    code = "event-not-retriable"
    title = "The event cannot be retried"
    remedy = "Discard it, or upgrade to a version that can handle it."


class InboundRefused(Problem):
    """None of the email's recipients takes it."""

    status = HTTPStatus.NOT_ACCEPTABLE
    code = "inbound-refused"
    title = "No recipient takes this email"
    remedy = "Do not send it again."
    example: ClassVar[Mapping[str, Any]] = {"reason": "unknown-address"}
