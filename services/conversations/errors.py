"""What the conversations service refuses, and says so."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar
from uuid import UUID

from shared.problems import Forbidden, Invalid, Problem
from shared.text import printable


class NewerMessages(Problem):
    """The other side has written since the sender last looked."""

    status = HTTPStatus.CONFLICT
    code = "newer-messages"
    title = "There are newer messages"


class ConversationNotClosed(Problem):
    """Only closed conversations can be deleted."""

    status = HTTPStatus.CONFLICT
    code = "conversation-not-closed"
    title = "The conversation is not closed"
    example: ClassVar[Mapping[str, Any]] = {"conversation_ids": ["0199a7d6-5b1e-7c3a-9d51-2f0f6c1a7e42"]}

    def __init__(self, conversation_ids: Sequence[UUID]) -> None:
        one = len(conversation_ids) == 1
        what = "This conversation is" if one else f"{len(conversation_ids)} of these conversations are"
        super().__init__(
            f"{what} not CLOSED; only closed conversations can be deleted. Nothing was deleted.",
            conversation_ids=[str(identity) for identity in conversation_ids],
        )


class IdempotencyKeyReused(Invalid):
    """The key came before with other fields."""

    code = "idempotency-key-reused"
    title = "The idempotency key was used for another request"

    def __init__(self) -> None:
        msg = "This Idempotency-Key came before, with other fields. Use a new key for a new request."
        super().__init__(msg, ("header", "Idempotency-Key"))


class OrderOfAnotherUser(Problem):
    """An order belongs to one customer until the store deletes it."""

    status = HTTPStatus.CONFLICT
    code = "order-of-another-user"
    title = "The order belongs to another user"


class OriginNotListed(Forbidden):
    """A page that is not the store's wants to begin a session."""

    code = "origin-not-listed"
    title = "The origin is not listed"

    def __init__(self, origin: str) -> None:
        hint = " A page with Referrer-Policy: no-referrer hides its origin." if origin == "null" else ""
        said = printable(origin[:200]) or "a page that does not say its origin"
        super().__init__(f"Sessions begin from the origins in CHATS_STORE_ORIGINS only, not from {said}.{hint}")
        self.origin = said


class RoleHasNoPages(Forbidden):
    """A token of the store's backend wants to begin a session."""

    code = "role-has-no-pages"
    title = "There are no pages for this role"

    def __init__(self) -> None:
        super().__init__("A session is for customers and admins; the store's backend calls with its token.")


class SessionsClosed(Problem):
    """Browsers cannot be let in: what signs their sessions was not set."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "sessions-closed"
    title = "There are no sessions here"

    def __init__(self) -> None:
        super().__init__("A session is signed with CHATS_AUTH_SECRET, which is not set; CHATS_AUTH_JWKS_URL is no key.")


class EventsPurged(Problem):
    """The log no longer reaches back to where the reader stands; the present state is what is left to read."""

    status = HTTPStatus.GONE
    code = "events-purged"
    title = "These events are no longer kept"


class TooManyStreams(Problem):
    """A person has as many live streams open as anybody may; another can open once one has ended."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too-many-streams"
    title = "Too many live streams"
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "30"}


class RateLimited(Problem):
    """Somebody has done so much of something in a time that no more is taken for a while, `seconds`."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate-limited"
    title = "Too many requests"

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds
        self.headers = {"Retry-After": str(seconds)}  # type: ignore[misc] # each one its own
