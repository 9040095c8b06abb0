"""Errors of the notifications service's API."""

from http import HTTPStatus

from shared.problems import Problem


class EmailNotFailed(Problem):
    """Only failed emails can be retried."""

    status = HTTPStatus.CONFLICT
    code = "email-not-failed"
    title = "The email has not failed"


class NotRetriable(Problem):
    """A parked event that another attempt could not handle either."""

    status = HTTPStatus.CONFLICT
    code = "event-not-retriable"
    title = "The event cannot be retried"
