"""The caller of an API, for code that does not authenticate."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from shared.settings import Role


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the content of a verified token. Missing or unusable claims are None.

    With a `session_id`, the caller is a browser with a session cookie; only the session's row says whether the session
    is still valid. Without it, `expires_at` and `issued_at` (seconds) are the token's; equality ignores them.
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
