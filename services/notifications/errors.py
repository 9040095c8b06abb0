"""What the notifications service refuses, and says so."""

from http import HTTPStatus

from shared.problems import Problem


class EmailNotFailed(Problem):
    """Only a failed mail can be retried."""

    status = HTTPStatus.CONFLICT
    code = "email-not-failed"
    title = "The mail has not failed"


class NotRetriable(Problem):
    """A parked event that another try could not help."""

    status = HTTPStatus.CONFLICT
    code = "event-not-retriable"
    title = "The event cannot be retried"
