"""Routes for emails that came in."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict

from services.notifications.api.dependencies import Admin
from services.notifications.errors import InboundNotWaiting
from services.notifications.inbound import operations
from services.notifications.models import InboundEmail
from services.notifications.rules import InboundKind, InboundReason, InboundState
from shared.api.dependencies import Cursor, DbSession, Limit
from shared.api.routing import ApiRouter
from shared.paging import DEFAULT_LIMIT, Page
from shared.people import StoreId
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses

router = ApiRouter(
    prefix="/api/v1/notifications/inbound",
    tags=["Emails"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

InboundId = Annotated[UUID, Path(description="The id of the email that came in.")]


class PostInbound(BaseModel):
    """Whose words an email becomes that opens a conversation. Left out, the customer who has its sender's address."""

    model_config = ConfigDict(extra="forbid")

    user_id: StoreId | None = None


class InboundOut(BaseModel):
    """An email that came in.

    `kind` is what it becomes: a customer's `message`, a `conversation` that the customer opens, an `admin-message` to
    the customer, or a `note`. `user_id` is who then wrote it, null if that is not known. `conversation_id` of a
    `conversation` exists once it is posted. `posted_by` is the admin who posted it by hand. `from_address` is who it
    says it is from. `reason` says why it is held, ignored or refused, or what a posted one left out. `message_id` and
    `message_number` are those of the message that it became. `original`: whether its original is kept.
    """

    id: UUID
    kind: InboundKind
    conversation_id: UUID
    user_id: str | None
    posted_by: str | None
    from_address: str | None
    state: InboundState
    reason: InboundReason | None
    size: int
    tries: int
    original: bool
    message_id: UUID | None
    message_number: int | None
    received_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, email: InboundEmail, original: bool) -> Self:
        """Convert an email."""
        values = {name: getattr(email, name) for name in cls.model_fields if name != "original"}
        return cls.model_validate(values | {"original": original, "posted_by": email.posted_by or None})


class InboundFile(BaseModel):
    """A file of an email that came in."""

    name: str
    size: int


class InboundDetail(InboundOut):
    """An email that came in, with its subject, its whole text with what it quotes, up to 20,000 characters, and files.

    `subject` and `text` are null if its original is not kept any more.
    """

    subject: str | None
    text: str | None
    files: list[InboundFile]


@router.get("", summary="List emails that came in")
async def list_inbound_emails(
    _: Admin,
    session: DbSession,
    conversation_id: Annotated[UUID | None, Query(description="Only emails for this conversation.")] = None,
    state: Annotated[InboundState | None, Query(description="Only emails in this state.")] = None,
    kind: Annotated[InboundKind | None, Query(description="Only emails that become this.")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[InboundOut]:
    """List emails that came in, newest first."""
    rows, next_cursor = await operations.list_inbound(
        session, conversation_id=conversation_id, state=state, kind=kind, cursor=cursor, limit=limit
    )
    return Page(items=[InboundOut.of(*row) for row in rows], next_cursor=next_cursor)


@router.get("/{inbound_id}", summary="Get an email that came in", responses=problem_responses(NotFound))
async def get_inbound_email(inbound_id: InboundId, _: Admin, session: DbSession) -> InboundDetail:
    """Return an email with its text and the names of its files, as long as its original is kept."""
    email, contents = await operations.find_inbound(session, inbound_id)
    out = InboundOut.of(email, contents is not None)
    files = [InboundFile(name=name, size=size) for name, size in contents.files] if contents else []
    said = {"subject": contents.subject, "text": contents.text} if contents else {"subject": None, "text": None}
    return InboundDetail(**out.model_dump(), **said, files=files)


@router.get(
    "/{inbound_id}/original",
    summary="Download an original email",
    response_class=Response,
    responses={200: {"content": {"message/rfc822": {}}}, **problem_responses(NotFound)},
)
async def download_inbound_original(inbound_id: InboundId, _: Admin, session: DbSession) -> Response:
    """Download the original of an email, as long as it is kept."""
    content = await operations.read_original(session, inbound_id)
    disposition = f'attachment; filename="{inbound_id}.eml"'
    return Response(content, media_type="message/rfc822", headers={"Content-Disposition": disposition})


@router.post(
    "/{inbound_id}/post",
    summary="Post a held email",
    status_code=204,
    responses=problem_responses(NotFound, InboundNotWaiting),
)
async def post_inbound_email(
    inbound_id: InboundId, caller: Admin, session: DbSession, body: PostInbound | None = None
) -> None:
    """Post a held or ignored email as a message of the customer that our email went to.

    One that opens a conversation needs a customer, if not exactly one has its sender's address. A reply to an email for
    admins becomes the caller's own answer or note.
    """
    user_id = body.user_id if body is not None else None
    await operations.post_inbound(session, inbound_id, user_id=user_id, posted_by=caller.id)


@router.post(
    "/{inbound_id}/discard",
    summary="Discard a held email",
    status_code=204,
    responses=problem_responses(NotFound, InboundNotWaiting),
)
async def discard_inbound_email(inbound_id: InboundId, _: Admin, session: DbSession) -> None:
    """Discard a held or ignored email: it never becomes a message."""
    await operations.discard_inbound(session, inbound_id)
