"""The response bodies of the store's routes."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel

from services.conversations.messaging.erasure_batches import Progress
from services.conversations.privacy.erasure import HeldCounts
from shared.problems import FieldError


class RecordOut(BaseModel):
    """A synced user or order, and warnings about values that were not used as sent."""

    id: str
    warnings: list[FieldError] | None = None
    items_omitted: int | None = None


@dataclass(slots=True)
class LineOut:
    """The result of one line of an import. For a rejected line, it has the error that the PUT would return.

    `lines_omitted` is in the last result if very many lines were neither a user nor an order.
    """

    line: int
    status: Literal[200, 201, 409, 413, 422]
    type: Literal["user", "order"] | None = None
    id: str | None = None
    code: str | None = None
    detail: str | None = None
    errors: list[FieldError] | None = None
    warnings: list[FieldError] | None = None
    items_omitted: int | None = None
    lines_omitted: int | None = None


@dataclass(slots=True)
class ErasureOut:
    """A user's erasure, and its receipt. `erased` counts rows, also of copies, so far.

    `counts` is what there was to erase when `asked_by` asked; both are null for erasures of earlier versions. The
    notifications service, which erases notifications and emails when it handles the deletion, is not counted.
    """

    id: UUID
    user_id: str
    content: bool
    state: Literal["running", "done"]
    erased: int
    asked_at: datetime
    finished_at: datetime | None
    asked_by: str | None
    counts: HeldCounts | None

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """Convert an erasure's progress."""
        fields = asdict(progress)
        counts = fields.pop("counts")
        state: Literal["running", "done"] = "done" if progress.finished_at else "running"
        return cls(state=state, counts=counts and HeldCounts(**counts), **fields)


@dataclass(slots=True)
class ErasurePreviewOut:
    """What a deletion would erase of a user, and what it would keep."""

    user_id: str
    content: bool
    erased: HeldCounts
    kept: HeldCounts


@dataclass(slots=True)
class MergedOut:
    """A merged id, and the person to whom it belongs."""

    id: str
    merged_into: str


@dataclass(slots=True)
class ConnectionOut:
    """How a request arrived: the client's address, the scheme and the host as the API sees them.

    `instance` is the process that answered, under a name that it has until it ends.
    """

    client_address: str | None
    scheme: str
    host: str
    instance: str
