"""Messages that came in by email, from the notifications service. The proxy must not expose it."""

import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import text

from services.conversations.api.posting import save
from services.conversations.api.schemas.requests import OptionalBody, Subject
from services.conversations.api.state import api_state
from services.conversations.api.uploading import save_file, too_large
from services.conversations.attachments.names import safe_name
from services.conversations.attachments.uploads import Upload
from services.conversations.desk.notes import NewNote, add_note
from services.conversations.desk.people import present_admins
from services.conversations.messaging.commands import mark_read
from services.conversations.messaging.entries import add_entry, lock_conversation
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.opening import NewConversation, create_conversation
from services.conversations.messaging.posting import Post
from services.conversations.messaging.replied_reads import RepliedRead, mark_replied_read
from services.conversations.models import ConversationEntry
from services.conversations.rate_limits.policy import LimitedAction
from services.conversations.rules import EntryKind, Side, Via
from shared.api.streamed_body import received
from shared.auth.principal import CallerMerged, Principal
from shared.database.transactions import request_connection, request_transaction
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from shared.settings import Role

FILES = "/internal/inbound/files"


async def check_secret(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    """Admit the notifications service. Raises `Unauthenticated`."""
    secret = api_state(request).settings.inbound_secret
    expected = f"Bearer {secret.get_secret_value()}" if secret else ""
    if not expected or not hmac.compare_digest(authorization.encode(), expected.encode()):
        raise Unauthenticated("Missing or wrong CHATS_INBOUND_SECRET.")


router = APIRouter(prefix="/internal/inbound", include_in_schema=False, dependencies=[Depends(check_secret)])


class Kind(StrEnum):
    """What an email becomes. `admin-message` and `note` are an admin's, the others a customer's."""

    MESSAGE = "message"
    CONVERSATION = "conversation"
    ADMIN_MESSAGE = "admin-message"
    NOTE = "note"

    @property
    def side(self) -> Side:
        """The side that writes."""
        return Side.CUSTOMER if self in {Kind.MESSAGE, Kind.CONVERSATION} else Side.ADMIN


class InboundMessage(BaseModel):
    """What came by email, and whose words it becomes; `read_up_to` is the newest message in the email that it answers.

    `posted_by` is given if somebody decided about it by hand: the admin, empty for an operator.
    """

    conversation_id: UUID
    user_id: str
    body: OptionalBody
    attachments: Annotated[list[UUID], Field(max_length=10)]
    read_up_to: Annotated[int, Field(ge=0)]
    kind: Kind = Kind.MESSAGE
    subject: Subject | None = None
    posted_by: str | None = None
    from_address: str | None = None
    mentions: Annotated[list[str], Field(max_length=100)] = []


Inbound = TypeVar("Inbound", bound=InboundMessage)


@router.post("/files", status_code=HTTPStatus.CREATED)
async def receive_inbound_file(
    request: Request,
    inbound_id: Annotated[UUID, Query()],
    user_id: Annotated[str, Query()],
    conversation_id: Annotated[UUID, Query()],
    position: Annotated[int, Query(ge=0)],
    size: Annotated[int, Query(ge=0)],
    name: Annotated[str, Query()] = "",
    *,
    inline: Annotated[bool, Query()] = False,
    kind: Annotated[Kind, Query()] = Kind.MESSAGE,
) -> dict[str, Any]:
    """Store a file of an email, once for each position; return its id.

    The id is null for a picture within the text that the conversation has already, such as a logo.
    """
    state = api_state(request)
    authors = await find_authors(request, [user_id])
    _check_author(authors.get(user_id), kind)
    limit = state.settings.attachment_max_bytes
    body = received(request, limit, too_large(limit))
    if inline:
        content = b"".join([chunk async for chunk in body])
        if await _is_known(request, conversation_id, content):
            return {"id": None}
        body = _chunks(content)
    upload = Upload(authors[user_id]["id"], kind.side, safe_name(name), size)
    with _again_if_gone():
        row, _ = await save_file(state, upload, body, f"inbound:{inbound_id}:{position}")
    return {"id": str(row["id"])}


@router.post("/{inbound_id}", status_code=HTTPStatus.CREATED)
async def post_inbound_message(request: Request, inbound_id: UUID, body: InboundMessage) -> dict[str, Any]:
    """Save what came by email, once; then mark the conversation as read up to what the email answers."""
    authors = await find_authors(request, [body.user_id])
    body = of_person(body, authors)
    saved = await save_email(request, inbound_id, body, authors)
    await mark_answered(request, [body])
    return saved


async def save_email(
    request: Request, inbound_id: UUID, body: InboundMessage, authors: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Save what came by email, once; return its id and number. Raises as other ways to write do."""
    _check_author(authors.get(body.user_id), body.kind)
    if not body.body and not body.attachments:
        raise Invalid("write something, or send a file", ("body", "body"), "missing")
    if body.posted_by is None:
        await _enforce_limits(request, inbound_id, body)
    with _again_if_gone():
        match body.kind:
            case Kind.CONVERSATION:
                saved = await _open(request, inbound_id, body)
            case Kind.NOTE:
                saved = await _add_note(request, inbound_id, body)
            case Kind.MESSAGE | Kind.ADMIN_MESSAGE:
                saved = await _post(request, inbound_id, body)
    if body.posted_by is not None:
        await _name_sender(request, inbound_id, body, saved)
    return saved


async def mark_answered(request: Request, bodies: Sequence[InboundMessage]) -> None:
    """Mark conversations as read up to what saved emails answer.

    Somebody else's words do not show that their customer has read anything.
    """
    reads = [body for body in bodies if body.read_up_to and body.kind is not Kind.NOTE]
    customers = [body for body in reads if body.kind.side is Side.CUSTOMER and body.posted_by is None]
    admins = [body for body in reads if body.kind.side is Side.ADMIN]
    if not customers and not admins:
        return
    async with request_transaction(api_state(request).sessions) as session:
        replied = [RepliedRead(body.conversation_id, body.user_id, body.read_up_to) for body in customers]
        await mark_replied_read(session, replied)
        for body in sorted(admins, key=lambda body: body.conversation_id):
            with contextlib.suppress(NotFound):  # deleted meanwhile
                await mark_read(session, body.conversation_id, Side.ADMIN, body.read_up_to, reader_id=body.user_id)


async def _enforce_limits(request: Request, inbound_id: UUID, body: InboundMessage) -> None:
    """Raise `RateLimited` as for other ways to write: the email then waits. A repeated call counts once."""
    caller = Principal(body.user_id, Role.CUSTOMER if body.kind.side is Side.CUSTOMER else Role.ADMIN)
    actions = [LimitedAction.CONVERSATION] if body.kind is Kind.CONVERSATION else []
    actions.append(LimitedAction.MESSAGE)
    await api_state(request).limits.allow(caller, actions, path=router.prefix, key=str(inbound_id))


async def _post(request: Request, inbound_id: UUID, body: InboundMessage) -> dict[str, Any]:
    side = body.kind.side
    # The key says all: the same email may be read differently by another release.
    post = Post(
        body.conversation_id,
        body.user_id,
        side,
        body.body,
        scope=body.user_id if side is Side.CUSTOMER else None,
        idempotency_key=IdempotencyKey.of(str(inbound_id), "inbound", {}),
        assigns=side is Side.ADMIN and api_state(request).settings.assign_on_reply,
        attachments=tuple(body.attachments),
        via=Via.EMAIL,
    )
    posted = await save(request, post)
    return {"id": str(posted.id), "number": posted.number}


async def _open(request: Request, inbound_id: UUID, body: InboundMessage) -> dict[str, Any]:
    """Open the conversation with its first message, under the id that the email gave it."""
    new = NewConversation(
        body.user_id,
        body.subject or "Email",
        body.user_id,
        Side.CUSTOMER,
        body=body.body,
        attachments=tuple(body.attachments),
        via=Via.EMAIL,
        id=body.conversation_id,
    )
    async with request_transaction(api_state(request).sessions) as session:
        await create_conversation(session, new, IdempotencyKey.of(str(inbound_id), "inbound", {}))
        message_id = await session.scalar(_FIRST, {"conversation_id": body.conversation_id})
    return {"id": str(message_id), "number": 1}


async def _add_note(request: Request, inbound_id: UUID, body: InboundMessage) -> dict[str, Any]:
    """Add a note with the email's id. Colleagues who are gone are not mentioned."""
    async with request_transaction(api_state(request).sessions) as session:
        conversation = await lock_conversation(session, body.conversation_id)
        if await session.get(ConversationEntry, inbound_id) is None:
            mentions = await present_admins(session, body.mentions)
            await add_note(session, NewNote(conversation.id, body.body, mentions, body.user_id), inbound_id)
    return {"id": str(inbound_id), "number": conversation.message_count}


async def _name_sender(request: Request, inbound_id: UUID, body: InboundMessage, saved: dict[str, Any]) -> None:
    """Say in the timeline, once, where an email came from that was posted by hand, and who posted it."""
    async with request_transaction(api_state(request).sessions) as session:
        conversation = await lock_conversation(session, body.conversation_id)
        entry_id = uuid5(inbound_id, EntryKind.POSTED_EMAIL)
        if await session.get(ConversationEntry, entry_id) is not None:
            return
        data = {"user_id": conversation.user_id, "message_id": saved["id"], "number": saved["number"]}
        if body.from_address:
            data["from"] = body.from_address
        actor_id = body.posted_by or None
        await add_entry(session, conversation, EntryKind.POSTED_EMAIL, actor_id, data, entry_id=entry_id)


async def find_authors(request: Request, user_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the users with these ids who are known, by these ids and by their own."""
    async with request_connection(api_state(request).acquire) as connection:
        users = await connection.fetch(_AUTHORS, user_ids)
    return {key: user for user in users for key in (user["asked_id"], user["id"])}


def of_person(body: Inbound, authors: Mapping[str, Mapping[str, Any]]) -> Inbound:
    """Return what came by email as the person's to whom the author's id belongs."""
    author = authors.get(body.user_id)
    return body if author is None else body.model_copy(update={"user_id": author["id"]})


def _check_author(user: Mapping[str, Any] | None, kind: Kind) -> None:
    """Raise `Forbidden` for a user who was deleted, or who has not the role that writes."""
    if user is None or user["deleted_at"] is not None or user["synced_role"] not in {None, kind.side.value}:
        raise Forbidden("This user was deleted, or has another role.")
    # A customer's reply to an email of ours is theirs, not a matter of their last token.
    if kind is not Kind.MESSAGE and user["synced_role"] is None and user["role"] != kind.side.value:
        raise Forbidden("This user has another role.")


@contextlib.contextmanager
def _again_if_gone() -> Iterator[None]:
    """Raise `Unavailable` for an author who has just been deleted or merged: the next call knows more.

    401 would mean a wrong secret.
    """
    try:
        yield
    except (Unauthenticated, CallerMerged):
        raise Unavailable("The author has just been deleted or merged. Try again.") from None


async def _is_known(request: Request, conversation_id: UUID, content: bytes) -> bool:
    async with request_connection(api_state(request).acquire) as connection:
        return bool(await connection.fetchval(_KNOWN, conversation_id, hashlib.sha256(content).hexdigest()))


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


_AUTHORS = """
    select asked.id as asked_id, person.id, person.deleted_at, person.role, person.synced_role
    from users as asked join users as person on person.id = coalesce(asked.merged_into, asked.id)
    where asked.id = any($1::text[])
"""
_FIRST = text("select id from messages where conversation_id = :conversation_id and number = 1")
_KNOWN = "select exists (select from attachments where conversation_id = $1 and sha256 = $2)"
