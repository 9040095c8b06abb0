"""Routes for what admins do beside messages: notes, assignment, labels, bulk changes, canned replies, the timeline."""

from typing import Annotated
from urllib.parse import unquote
from uuid import UUID

from fastapi import Path, Request, Response
from pydantic import BeforeValidator

from services.conversations.api.dependencies import (
    Admin,
    AdminReader,
    ConversationId,
    IdempotencyKeyHeader,
    Order,
    key_of,
    mark_replay,
    viewer_of,
)
from services.conversations.api.schemas.desk import (
    Assign,
    CannedReplyOut,
    ChangedMany,
    ChangeLabels,
    ChangeMany,
    FilledReply,
    LabelName,
    LabelOut,
    NoteOut,
    RenameLabel,
    Timeline,
    WriteCannedReply,
    WriteNote,
    timeline_item,
)
from services.conversations.api.schemas.responses import AdminConversationOut, AdminOut
from services.conversations.api.state import api_state
from services.conversations.desk import canned_replies, labels, notes
from services.conversations.desk.assignment import Assignee, assign
from services.conversations.desk.bulk import BulkChange, change_conversations
from services.conversations.desk.removal import remove_message
from services.conversations.desk.timeline import find_entry, list_timeline
from services.conversations.errors import AssigneeChanged, IdempotencyKeyReused, LabelTaken, ShortcutTaken
from services.conversations.messaging.create_keys import claim_key
from services.conversations.messaging.queries import list_admins, load_conversation
from services.conversations.rules import Side
from shared.api.dependencies import Cursor, DbSession, Limit
from shared.api.routing import ApiRouter
from shared.database.transactions import driver_connection
from shared.paging import DEFAULT_LIMIT, Page
from shared.problems import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, problem_responses

router = ApiRouter(
    prefix="/api/v1/admin",
    tags=["Desk"],
    responses=problem_responses(Unauthenticated, Forbidden, Invalid, Unavailable),
)

_CONVERSATION = "/conversations/{conversation_id}"
Label = Annotated[LabelName, BeforeValidator(unquote), Path(description="The label's name, percent-encoded.")]
NoteId = Annotated[UUID, Path(description="The note's id.")]
MessageId = Annotated[UUID, Path(description="The message's id.")]
CannedReplyId = Annotated[UUID, Path(description="The canned reply's id.")]


@router.read("/admins", summary="List admins")
async def list_assignable_admins(
    reading: AdminReader, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[AdminOut]:
    """List the admins who can be assigned or mentioned, by id."""
    admins, next_cursor = await list_admins(reading, cursor, limit)
    return Page(items=[AdminOut.of(admin.id, admin.name) for admin in admins], next_cursor=next_cursor)


@router.put(
    f"{_CONVERSATION}/assignee", summary="Assign a conversation", responses=problem_responses(NotFound, AssigneeChanged)
)
async def assign_conversation(
    conversation_id: ConversationId, body: Assign, caller: Admin, session: DbSession
) -> AdminConversationOut:
    """Assign a conversation to an admin, or to nobody. With `expected` only one of several admins can claim it."""
    expected = Assignee(body.expected) if "expected" in body.model_fields_set else None
    await assign(session, conversation_id, body.admin_id, caller.id, expected)
    return await _conversation(session, conversation_id)


@router.patch(
    f"{_CONVERSATION}/labels", summary="Change a conversation's labels", responses=problem_responses(NotFound)
)
async def change_conversation_labels(
    conversation_id: ConversationId, body: ChangeLabels, caller: Admin, session: DbSession
) -> AdminConversationOut:
    """Add labels to a conversation and remove others. New labels are created."""
    await labels.change_labels(session, conversation_id, body.add, body.remove, caller.id)
    return await _conversation(session, conversation_id)


@router.read("/labels", summary="List labels")
async def list_labels(reading: AdminReader, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[LabelOut]:
    """List all labels by name."""
    rows, next_cursor = await labels.list_labels(reading, cursor, limit)
    return Page(items=[LabelOut.of(row) for row in rows], next_cursor=next_cursor)


@router.patch("/labels/{label}", summary="Rename a label", responses=problem_responses(NotFound, LabelTaken))
async def rename_label(label: Label, body: RenameLabel, caller: Admin, session: DbSession) -> LabelOut:
    """Rename a label on all conversations."""
    return LabelOut.of(await labels.rename_label(session, label, body.name, caller.id))


@router.delete("/labels/{label}", summary="Delete a label", status_code=204, responses=problem_responses(NotFound))
async def delete_label(label: Label, caller: Admin, session: DbSession) -> None:
    """Delete a label from all conversations."""
    await labels.delete_label(session, label, caller.id)


@router.post(
    f"{_CONVERSATION}/notes",
    summary="Add a note",
    status_code=201,
    responses=problem_responses(NotFound, IdempotencyKeyReused),
)
async def add_note(
    request: Request,
    conversation_id: ConversationId,
    body: WriteNote,
    caller: Admin,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> NoteOut:
    """Add a note that only admins see. It moves neither the status nor the read flags."""
    note_id, replayed = await claim_key(session, caller.id, key_of(key, f"note:{conversation_id}", body))
    mark_replay(response, replayed=replayed)
    if note_id is None or not replayed:
        note = notes.NewNote(conversation_id, body.body, body.mentions, caller.id)
        note_id = await notes.add_note(session, note, note_id)
    return await _note(request, session, conversation_id, note_id)


@router.delete(
    f"{_CONVERSATION}/notes/{{note_id}}",
    summary="Delete a note",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def delete_note(conversation_id: ConversationId, note_id: NoteId, caller: Admin, session: DbSession) -> None:
    """Delete one's own note. A placeholder stays in the timeline."""
    await notes.delete_note(session, conversation_id, note_id, caller.id)


@router.delete(
    f"{_CONVERSATION}/messages/{{message_id}}",
    summary="Remove a message",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def delete_message(
    conversation_id: ConversationId, message_id: MessageId, caller: Admin, session: DbSession
) -> None:
    """Remove the text of a message that was sent by mistake, also from notifications and unsent emails.

    Its number stays, for both sides.
    """
    await remove_message(session, conversation_id, message_id, caller.id)


@router.read(
    f"{_CONVERSATION}/timeline", summary="Get a conversation's timeline", responses=problem_responses(NotFound)
)
async def get_timeline(
    request: Request,
    conversation_id: ConversationId,
    reading: AdminReader,
    order: Order = "asc",
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Timeline:
    """List messages, notes, status changes, assignments, labels, removals and the status of emails in one order.

    Oldest first. What became of an email comes after the newest message that it contained, seconds later than it
    happened, and keeps its place when its state changes.
    """
    rows, next_cursor, known_until = await list_timeline(
        reading, conversation_id, newest_first=order == "desc", cursor=cursor, limit=limit
    )
    api_state(request).reads.note(reading.principal.id, conversation_id)
    viewer = viewer_of(request, Side.ADMIN)
    items = [timeline_item(row, viewer) for row in rows]
    return Timeline(items=items, next_cursor=next_cursor, emails_known_until=known_until)


@router.post("/conversations/bulk", summary="Change conversations in bulk")
async def change_many(body: ChangeMany, caller: Admin, session: DbSession) -> ChangedMany:
    """Change many conversations in one transaction. Those with messages after `seen_number` are left alone."""
    seen: dict[UUID, int] = {}
    for item in body.items:
        seen[item.id] = min(item.seen_number, seen.get(item.id, item.seen_number))
    change = BulkChange(
        status=body.status,
        read=body.read,
        assignee=Assignee(body.assignee_id) if "assignee_id" in body.model_fields_set else None,
        add_labels=tuple(body.add_labels),
        remove_labels=tuple(body.remove_labels),
    )
    return ChangedMany.of(await change_conversations(session, seen, change, caller.id))


@router.read("/canned-replies", summary="List canned replies")
async def list_canned_replies(
    reading: AdminReader, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[CannedReplyOut]:
    """List canned replies by shortcut."""
    rows, next_cursor = await canned_replies.list_canned_replies(reading, cursor, limit)
    return Page(items=[CannedReplyOut.of(row) for row in rows], next_cursor=next_cursor)


@router.post(
    "/canned-replies",
    summary="Create a canned reply",
    status_code=201,
    responses=problem_responses(ShortcutTaken, IdempotencyKeyReused),
)
async def create_canned_reply(
    body: WriteCannedReply,
    caller: Admin,
    session: DbSession,
    response: Response,
    key: IdempotencyKeyHeader = None,
) -> CannedReplyOut:
    """Create a canned reply. Its shortcut is unique in its language."""
    reply_id, replayed = await claim_key(session, caller.id, key_of(key, "canned-reply", body))
    mark_replay(response, replayed=replayed)
    if reply_id is not None and replayed:
        return CannedReplyOut.of(await canned_replies.read_canned_reply(session, reply_id))
    return CannedReplyOut.of(await canned_replies.create_canned_reply(session, body.fields, caller.id, reply_id))


@router.put(
    "/canned-replies/{canned_reply_id}",
    summary="Replace a canned reply",
    responses=problem_responses(NotFound, ShortcutTaken),
)
async def replace_canned_reply(
    canned_reply_id: CannedReplyId, body: WriteCannedReply, caller: Admin, session: DbSession
) -> CannedReplyOut:
    """Replace a canned reply."""
    return CannedReplyOut.of(
        await canned_replies.replace_canned_reply(session, canned_reply_id, body.fields, caller.id)
    )


@router.delete(
    "/canned-replies/{canned_reply_id}",
    summary="Delete a canned reply",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def delete_canned_reply(canned_reply_id: CannedReplyId, caller: Admin, session: DbSession) -> None:
    """Delete a canned reply."""
    await canned_replies.delete_canned_reply(session, canned_reply_id, caller.id)


@router.get(
    f"{_CONVERSATION}/canned-replies/{{canned_reply_id}}",
    summary="Fill in a canned reply",
    responses=problem_responses(NotFound),
)
async def fill_canned_reply(
    conversation_id: ConversationId, canned_reply_id: CannedReplyId, caller: Admin, session: DbSession
) -> FilledReply:
    """Fill a canned reply in for a conversation. `empty` names the variables that have no value there."""
    body, empty = await canned_replies.fill_for(session, canned_reply_id, conversation_id, caller.id)
    return FilledReply(body=body, empty=list(empty))


async def _conversation(session: DbSession, conversation_id: UUID) -> AdminConversationOut:
    return AdminConversationOut.of(await load_conversation(await driver_connection(session), conversation_id))


async def _note(request: Request, session: DbSession, conversation_id: UUID, note_id: UUID) -> NoteOut:
    entry = await find_entry(await driver_connection(session), conversation_id, note_id)
    note = timeline_item(entry, viewer_of(request, Side.ADMIN))
    assert isinstance(note, NoteOut)  # noqa: S101 - for types
    return note
