"""The requests of a run that may be interrupted, and its allowed final states."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.helpers.smtp_server import KEEP_AND_DROP, Script

SUPPORT = "support@store.test"

UNKNOWN_EVENT = UUID("00000000-0000-7000-8000-000000000001")
"""In the log and in a task: an event of a type that only a newer version of the product knows."""
INVALID_TASK = UUID("00000000-0000-7000-8000-000000000002")
"""A task without an event."""


@dataclass(frozen=True)
class Step:
    """A request. `{name}` in its path is the id in the response to the step of that name."""

    name: str
    caller: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    statuses: tuple[int, ...] = (201,)
    key: str | None = None  # another step's key, for a repeated request


def _opens(customer: str, **more: str) -> Step:
    body = {"subject": f"A question of {customer}", **more}
    return Step(f"open-{customer}", customer, "POST", "/api/v1/conversations", body)


def _replies(customer: str, text: str) -> Step:
    path = f"/api/v1/admin/conversations/{{open-{customer}}}"
    return Step(f"reply-{customer}-{text}", "sam", "POST", f"{path}/messages", {"body": f"{text} to {customer}"})


def _answered(*customers: str) -> tuple[Step, ...]:
    return tuple(step for customer in customers for step in (_opens(customer), _replies(customer, "Answer")))


POSTS = (
    _opens("anna", body="A message with the conversation"),
    Step("ask-anna", "anna", "POST", "/api/v1/conversations/{open-anna}/messages", {"body": "A message of its own"}),
    _replies("anna", "Answer"),
    _replies("anna", "Addition"),  # joins the email
    Step(
        "reply-anna-again",
        "sam",
        "POST",
        "/api/v1/admin/conversations/{open-anna}/messages",
        {"body": "Answer to anna"},
        key="reply-anna-Answer",
    ),
    *_answered("fred", "gina", "hana", "ivan"),
    Step(
        "edit-gina",
        "sam",
        "PATCH",
        "/api/v1/admin/conversations/{open-gina}",
        {"reply_body": "Goodbye to gina", "status": "CLOSED"},
        (200,),
    ),
)

# Conversations with the customers whose emails the mail server refuses or loses.
MORE_POSTS = _answered("ben", "cleo", "dora", "eve")

WITHDRAWALS = (
    Step("read-fred", "fred", "GET", "/api/v1/conversations/{open-fred}", None, (200,)),
    # 404 when the request that died had already deleted it.
    Step("delete-gina", "sam", "DELETE", "/api/v1/admin/conversations/{open-gina}", None, (204, 404)),
    Step("erase-ivan", "shop", "DELETE", "/api/v1/store/users/ivan", None, (204,)),
)

DELETED = "open-gina"


def claims(caller: str) -> dict[str, str]:
    """Return the claims of a caller's token."""
    role = {"sam": "admin", "shop": "store"}.get(caller, "customer")
    address = {} if caller == "hana" else {"email": f"{caller}@customer.test"}
    return {"sub": caller, "role": role, "name": caller.title(), **address}


def mail_script() -> Script:
    """Return a mail server's script with a setup fault, a refusal, a deferral, one and two lost replies."""
    return {
        "mail": ["530 5.7.0 authentication required"],
        "rcpt ben@customer.test": "550 5.1.1 nobody here",
        "rcpt cleo@customer.test": ["450 4.2.0 greylisted"],
        "end dora@customer.test": [KEEP_AND_DROP],
        "end eve@customer.test": KEEP_AND_DROP,
    }


End = tuple[str, str | None]

SENT: set[End] = {("sent", None)}
ENDS: dict[str, set[End]] = {
    "support": SENT,
    "anna": SENT,
    "ben": SENT,
    "cleo": SENT,
    "dora": SENT,
    "eve": SENT,
    "fred": {("cancelled", "read")},
    "gina": {("cancelled", "deleted")},
    "hana": {("suppressed", "no-address")},
    # Either one, depending on whether the email was created before the user was erased.
    "ivan": {("cancelled", "user-deleted"), ("suppressed", "user-deleted")},
}
"""The final states of each recipient's email, with a server that accepts everything."""
FAILURES: dict[str, set[End]] = {"ben": {("failed", "rejected")}, "eve": {("failed", "uncertain")}}
"""The additional final states with `mail_script`."""
