"""The rules of a conversation: statuses, how a message changes them, limits. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

SUBJECT_LENGTH = 200  # characters
BODY_LENGTH = 10_000  # characters
BULK_LIMIT = 100  # conversations deleted or changed at once
LABEL_LIMIT = 20  # labels of a conversation
LABEL_LENGTH = 50  # characters
MENTION_LIMIT = 20  # admins mentioned in a note
COUNT_LIMIT = 1_000  # counts of conversations stop here
ATTACHMENT_LIMIT = 10  # files in a message

CustomValue = str | int | float | bool | None
"""A value of the store's own fields of a user."""


class Status(StrEnum):
    """The status of a conversation: whose turn it is.

    `OPEN`: new, without an answer. `AWAITING_ADMIN`: the customer wrote last. `AWAITING_USER`: an admin wrote last.
    `RESOLVED`: considered solved. `CLOSED`: the only status in which it can be deleted. A customer's message to a
    resolved or closed conversation opens it again.
    """

    OPEN = "OPEN"
    AWAITING_ADMIN = "AWAITING_ADMIN"
    AWAITING_USER = "AWAITING_USER"
    RESOLVED = "RESOLVED"
    CLOSED = "CLOSED"


class Side(StrEnum):
    """The side that wrote a message; it never changes."""

    CUSTOMER = "customer"
    ADMIN = "admin"


class ChosenStatus(StrEnum):
    """What an admin chooses for the status: one of them, or with a reply to keep the present one."""

    OPEN = "OPEN"
    AWAITING_ADMIN = "AWAITING_ADMIN"
    AWAITING_USER = "AWAITING_USER"
    RESOLVED = "RESOLVED"
    CLOSED = "CLOSED"
    KEEP = "KEEP"


class EntryKind(StrEnum):
    """The kinds of entries in a conversation's timeline beside messages, and their data."""

    ASSIGNMENT = "assignment"  # from, to: ids of admins or null
    EMAIL = "email"  # to, state, reason, numbers, at: of the email with this id; no actor
    LABELS = "labels"  # added, removed: names
    NOTE = "note"  # body, mentions: ids of admins; `deleted` instead of both once the author deleted it
    POSTED_EMAIL = "posted-email"  # from, user_id, message_id, number: of an email that an admin posted by hand
    REMOVAL = "removal"  # message_id, number: of a message whose text an admin removed
    STATUS = "status"  # from, to: statuses; changes by hand, and without an actor those after quiet days


class ActorRole(StrEnum):
    """An actor of the audit: a customer, an admin, the store's backend, or the service itself."""

    CUSTOMER = "customer"
    ADMIN = "admin"
    STORE = "store"
    SYSTEM = "system"


class AuditAction(StrEnum):
    """What the audit records."""

    CONVERSATION_READ = "conversation.read"
    CONVERSATION_STATUS = "conversation.status"  # from, to
    CONVERSATION_ASSIGNMENT = "conversation.assignment"  # from, to: ids of admins or null
    CONVERSATION_LABELS = "conversation.labels"  # added, removed: ids of labels
    CONVERSATION_DELETED = "conversation.deleted"  # by retention: retention_days
    MESSAGE_REMOVED = "message.removed"
    NOTE_DELETED = "note.deleted"
    LABEL_RENAMED = "label.renamed"
    LABEL_DELETED = "label.deleted"
    CANNED_REPLY_CREATED = "canned-reply.created"
    CANNED_REPLY_CHANGED = "canned-reply.changed"
    CANNED_REPLY_DELETED = "canned-reply.deleted"
    SESSION_BEGUN = "session.begun"
    SESSION_ENDED = "session.ended"  # everywhere
    USER_DELETED = "user.deleted"  # content
    USER_EXPORTED = "user.exported"  # internal
    USER_MERGED = "user.merged"  # into
    USER_SESSIONS_ENDED = "user.sessions-ended"
    ORDER_DELETED = "order.deleted"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"  # the names of the changed fields
    WEBHOOK_ROTATED = "webhook.rotated"  # it has a new secret
    WEBHOOK_DELETED = "webhook.deleted"


class Via(StrEnum):
    """How a message arrived."""

    WEB = "web"
    API = "api"
    EMAIL = "email"


class FileState(StrEnum):
    """The state of a file. Only a ready one can be read."""

    UPLOADING = "uploading"
    SCANNING = "scanning"
    READY = "ready"
    BLOCKED = "blocked"


class ThumbnailState(StrEnum):
    """Whether a file has a thumbnail, may get one, or gets none."""

    NONE = "none"
    WAITING = "waiting"
    READY = "ready"


class WebhookType(StrEnum):
    """The types of events that a webhook can have."""

    CONVERSATION_CREATED = "conversation.created"
    MESSAGE_POSTED = "message.posted"
    CONVERSATION_STATUS_CHANGED = "conversation.status_changed"
    CONVERSATION_DELETED = "conversation.deleted"
    NOTIFICATION_CREATED = "notification.created"
    EMAIL_FAILED = "email.failed"
    EMAIL_BOUNCED = "email.bounced"


WEBHOOK_TEST = "webhook.test"
"""The type of a test, which is sent on request, also to a webhook of other types."""


class DeliveryState(StrEnum):
    """The state of a delivery of a webhook. `dropped`: its conversation was deleted before it was delivered."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"


class WebhookError(StrEnum):
    """Why an attempt at a delivery failed.

    `status`: an answer other than 2xx. `gone`: the answer 410. `timeout`: no answer in time. `unreachable`: no such
    name, or nothing accepts connections there. `tls`: the certificate is not valid for the name, or TLS failed
    otherwise. `connection`: it broke, or the answer was no HTTP. `body`: it could not be made; the log of the jobs says
    why. `address`: the name leads to an address that webhooks may not reach.
    """

    STATUS = "status"
    GONE = "gone"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    CONNECTION = "connection"
    BODY = "body"
    ADDRESS = "address"


class WebhookOff(StrEnum):
    """Why a webhook is disabled.

    `request`: the store or an admin disabled it. `gone`: its endpoint answered 410. `failing`: every attempt has failed
    for days.
    """

    REQUEST = "request"
    GONE = "gone"
    FAILING = "failing"


WAITING = frozenset({Status.OPEN, Status.AWAITING_ADMIN})
"""The statuses in which the customer waits for an admin."""

ACTIVE = frozenset(Status) - {Status.RESOLVED, Status.CLOSED}
"""The statuses in which somebody still has something to do."""

DELETABLE = frozenset({Status.CLOSED})

AFTER_CUSTOMER: Mapping[Status, Status] = dict.fromkeys(Status, Status.AWAITING_ADMIN)

# The first message of a conversation created without one leaves the status as it is, but reopens a resolved or closed
# conversation.
AFTER_FIRST_FROM_CUSTOMER: Mapping[Status, Status] = {status: status for status in Status} | {
    Status.RESOLVED: Status.OPEN,
    Status.CLOSED: Status.OPEN,
}

AFTER_ADMIN: Mapping[Status, Status] = dict.fromkeys(Status, Status.AWAITING_USER)


@dataclass(frozen=True, slots=True)
class Effect:
    """How a message from one side changes its conversation."""

    after_first: Mapping[Status, Status]
    after_later: Mapping[Status, Status]
    is_read_by_admin: bool
    is_read_by_user: bool
    answers: bool  # whether it ends the customer's wait


EFFECTS: Mapping[Side, Effect] = {
    Side.CUSTOMER: Effect(
        after_first=AFTER_FIRST_FROM_CUSTOMER,
        after_later=AFTER_CUSTOMER,
        is_read_by_admin=False,
        is_read_by_user=True,
        answers=False,
    ),
    Side.ADMIN: Effect(
        after_first=AFTER_ADMIN,
        after_later=AFTER_ADMIN,
        is_read_by_admin=True,
        is_read_by_user=False,
        answers=True,
    ),
}


def former_order_id(order_id: str, user_id: str) -> str:
    """Return the id of the row that keeps the last state of a deleted order whose id now belongs to another user.

    It cannot clash with the store's ids: they contain no spaces.
    """
    return f"{order_id} {user_id}"
