"""Errors of the notifications service's API."""

from http import HTTPStatus

from shared.problems import Problem


class EmailNotFailed(Problem):
    """Only failed emails can be retried."""

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
