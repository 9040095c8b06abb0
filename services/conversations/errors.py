"""The problems that the conversations service answers with."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar
from uuid import UUID

from shared.problems import Forbidden, Invalid, Problem, TokenRefused
from shared.text import printable


class NewerMessages(Problem):
    """The other side has written messages after `seen_number`. Nothing was posted or changed."""

    status = HTTPStatus.CONFLICT
    code = "newer-messages"
    title = "There are newer messages"
    remedy = "Show the new messages, then send again with the new number."


class StatusChanged(Problem):
    """The conversation no longer has the status in `expected_status`. Nothing was changed."""

    status = HTTPStatus.CONFLICT
    code = "status-changed"
    title = "The status has changed"
    remedy = "Show the present status, then decide again."


class ConversationNotClosed(Problem):
    """Only closed conversations can be deleted. `conversation_ids` names the others; nothing was deleted."""

    status = HTTPStatus.CONFLICT
    code = "conversation-not-closed"
    title = "The conversation is not closed"
    remedy = "Close them first, or leave them out."
    example: ClassVar[Mapping[str, Any]] = {"conversation_ids": ["0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42"]}

    def __init__(self, conversation_ids: Sequence[UUID]) -> None:
        count = len(conversation_ids)
        subject = "This conversation is" if count == 1 else f"{count} of these conversations are"
        super().__init__(
            f"{subject} not CLOSED; only closed conversations can be deleted. Nothing was deleted.",
            conversation_ids=[str(conversation_id) for conversation_id in conversation_ids],
        )


class AssigneeChanged(Problem):
    """Another admin has assigned the conversation meanwhile. `assignee_id` is the present assignee."""

    status = HTTPStatus.CONFLICT
    code = "assignee-changed"
    title = "The assignee has changed"
    remedy = "Show the present assignee, then decide again with it as `expected`."
    example: ClassVar[Mapping[str, Any]] = {"assignee_id": "A-2"}

    def __init__(self, assignee_id: str | None) -> None:
        now = "is no longer assigned" if assignee_id is None else "is now assigned to another admin"
        super().__init__(f"The conversation {now}. Nothing was changed.", assignee_id=assignee_id)


class TooManyWebhooks(Problem):
    """There are 20 webhooks already."""

    status = HTTPStatus.CONFLICT
    code = "too-many-webhooks"
    title = "Too many webhooks"
    remedy = "Delete one that you no longer need."


class CannotMerge(Problem):
    """One is an admin or was deleted, the old id was merged into another customer, or `into` was merged into it."""

    status = HTTPStatus.CONFLICT
    code = "cannot-merge"
    title = "These users cannot be merged"
    remedy = "Merge each id once, and only customers who were not deleted. `detail` says what is in the way."


class LabelTaken(Problem):
    """Another label has this name. Names are compared without case."""

    status = HTTPStatus.CONFLICT
    code = "label-taken"
    title = "The label exists"
    remedy = "Choose another name."

    def __init__(self, name: str) -> None:
        super().__init__(f"There is already a label named {printable(name)}. Names are compared without case.")


class ShortcutTaken(Problem):
    """Another canned reply in the same language has this shortcut."""

    status = HTTPStatus.CONFLICT
    code = "shortcut-taken"
    title = "The shortcut exists"
    remedy = "Choose another shortcut, or change the other reply."

    def __init__(self, shortcut: str) -> None:
        super().__init__(f"Another canned reply already has the shortcut {printable(shortcut)} in this language.")


class IdempotencyKeyReused(Invalid):
    """The `Idempotency-Key` was used before, by the same caller for the same path, with other fields."""

    code = "idempotency-key-reused"
    title = "The idempotency key was used for another request"
    remedy = "Make a new key for each new request, and keep it only for retries."

    def __init__(self) -> None:
        msg = "This Idempotency-Key was already used with different fields. Use a new key for a new request."
        super().__init__(msg, ("header", "Idempotency-Key"), "idempotency_key_reused")


class OrderOfAnotherUser(Problem):
    """The order has another `user_id`, which cannot change."""

    status = HTTPStatus.CONFLICT
    code = "order-of-another-user"
    title = "The order belongs to another user"
    remedy = "Delete the order first if its id was given to another user."


class OriginNotListed(Forbidden):
    """A page outside the store's origins tried to start a session."""

    code = "origin-not-listed"
    title = "The origin is not listed"
    remedy = "Add the page's origin to `CHATS_STORE_ORIGINS`."

    def __init__(self, origin: str) -> None:
        hint = " Pages with Referrer-Policy: no-referrer hide their origin." if origin == "null" else ""
        name = printable(origin[:200]) or "a page that hides its origin"
        super().__init__(f"Sessions can only be started from CHATS_STORE_ORIGINS, not from {name}.{hint}")
        self.origin = name


class NoToken(TokenRefused):
    """The form that should start a session has no token."""

    is_missing = True

    def __init__(self) -> None:
        super().__init__("The form has no token. Send it as the form field token.", "malformed")


class RoleHasNoPages(Forbidden):
    """The store's backend tried to start a session with its token."""

    code = "role-has-no-pages"
    title = "There are no pages for this role"
    remedy = "Use a token of a customer or an admin. A backend calls the API."

    def __init__(self) -> None:
        super().__init__(
            "Only customers and admins can start a session. The store's backend sends its token with each call."
        )


class SessionsClosed(Problem):
    """Sessions cannot be signed because `CHATS_AUTH_SECRET` is not set."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "sessions-closed"
    title = "Sign-in is unavailable"
    remedy = "Set `CHATS_AUTH_SECRET`."

    def __init__(self) -> None:
        super().__init__("Sign-in is unavailable until an administrator sets CHATS_AUTH_SECRET.")


class SearchTooSlow(Problem):
    """The search took longer than its deadline."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "search-too-slow"
    title = "The search took too long"
    remedy = "Add a longer word or a filter, then try again."
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "5"}

    def __init__(self) -> None:
        super().__init__("This search took too long. Add a longer word or a filter, then try again.")


class TooManyStreams(Problem):
    """The user has five live streams open already."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too-many-streams"
    title = "Too many live streams"
    remedy = "Close one, or try again after `Retry-After` seconds."
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "30"}


class UploadsFull(Problem):
    """The user has the maximum number of uploads under way already."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too-many-uploads"
    title = "Too many uploads at once"
    remedy = "Try again after `Retry-After` seconds."
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "10"}


class FileNotReady(Problem):
    """The file is being scanned for malware, or the scan found something."""

    status = HTTPStatus.CONFLICT
    code = "file-not-ready"
    title = "The file cannot be downloaded"
    remedy = "While `state` is `scanning`, try again later. A `blocked` file can never be read."


class RateLimited(Problem):
    """The caller reached a rate limit."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate-limited"
    title = "Too many requests"
    remedy = "Try again after `Retry-After` seconds."

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds
        self.headers = {"Retry-After": str(seconds)}  # type: ignore[misc] # differs by instance
