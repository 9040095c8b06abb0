"""The caller of an API, for code that does not authenticate."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from shared.settings import Role


class Permission(StrEnum):
    """What an admin may do beyond the work of every admin."""

    DELETE = "delete"
    """Delete conversations."""
    OPERATIONS = "operations"
    """See the state of both services, and retry failed emails."""
    REPORTS = "reports"
    """See the reports."""
    AUDIT = "audit"
    """See who did what."""
    WEBHOOKS = "webhooks"
    """Manage webhooks."""


UNNAMED_PERMISSIONS: Final = frozenset(Permission) - {Permission.OPERATIONS, Permission.WEBHOOKS}
"""The permissions of every admin while CHATS_AUTH_PERMISSIONS_CLAIM names no claim."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the content of a verified token. Missing or unusable claims are None.

    With a `session_id`, the caller is a browser with a session cookie; only the session's row says whether the session
    is still valid. Without it, `expires_at` and `issued_at` (seconds) are the token's. Equality ignores them and the
    permissions.
    """

    id: str
    role: Role
    email: str | None = None
    name: str | None = None
    locale: str | None = None
    zoneinfo: str | None = None
    session_id: UUID | None = None
    expires_at: datetime | None = field(default=None, compare=False)
    issued_at: int = field(default=0, compare=False)
    permissions: frozenset[Permission] = field(default=frozenset(), compare=False)


class CallerMerged(Exception):  # noqa: N818 - no error: the request is handled again
    """The caller's id is one of `person_id` now. Raised before anything is answered."""

    def __init__(self, old_id: str, person_id: str) -> None:
        super().__init__("the caller's id was merged into another one")
        self.old_id = old_id
        self.person_id = person_id
