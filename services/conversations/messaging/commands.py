"""All writes to conversations except posting. None of these functions commits."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    any_,
    case,
    delete,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, acts_on, record
from services.conversations.errors import ConversationNotClosed, NewerMessages, StatusChanged
from services.conversations.event_log.append import announce_at_commit, append_event, append_events
from services.conversations.messaging.entries import add_entry, lock_conversation
from services.conversations.messaging.erasure_batches import erase_if_small
from services.conversations.models import Conversation, LoggedEvent, User
from services.conversations.records import ConversationDetail
from services.conversations.rules import ACTIVE, DELETABLE, ActorRole, AuditAction, EntryKind, Side, Status
from shared.events import ConversationDeleted, EventType
from shared.problems import NotFound

_FLAGS = (Conversation.is_read_by_user, Conversation.is_read_by_admin)
_NOBODY = literal([], ARRAY(Text))
_AWAITED_BEFORE = literal_column("old.awaited", ARRAY(Text))


async def set_status(
    session: AsyncSession,
    conversation_id: UUID,
    status: Status,
    *,
    actor_id: str,
    seen_number: int | None = None,
    expected_status: Status | None = None,
) -> bool:
    """Set the status, from any to any; return whether that changed it. Setting the current status writes nothing.

    Raises `NotFound`, `NewerMessages` if the customer has sent a message after `seen_number`, or `StatusChanged` if the
    status is not `expected_status`. With both, which undoes a change, a newer message of an admin counts as well.
    """
    conversation = await lock_conversation(session, conversation_id)
    undoes = expected_status is not None
    newest = conversation.message_count if undoes else conversation.last_customer_number
    if seen_number is not None and seen_number < newest:
        raise NewerMessages(
            f"There are {'' if undoes else 'customer '}messages after {seen_number}. The status was not changed."
        )
    if expected_status not in (None, conversation.status):
        raise StatusChanged(f"The status is no longer {expected_status}. It was not changed.")
    if conversation.status == status:
        return False
    await change_status(session, conversation, status, actor_id)
    return True


async def change_status(
    session: AsyncSession, conversation: Conversation, status: Status, actor_id: str | None
) -> None:
    """Change the status of a locked conversation; without an actor it changes by itself."""
    data = {"from": conversation.status, "to": status.value}
    act = Act(AuditAction.CONVERSATION_STATUS, actor_id, conversation.id, data=data) if actor_id else None
    await add_entry(session, conversation, EntryKind.STATUS, actor_id, data, act=act)
    if conversation.status not in ACTIVE and status in ACTIVE:
        await _unassign_deleted(session, conversation)
    conversation.status = status
    conversation.changed_at = func.clock_timestamp()
    await session.flush()
    await log_update(session, conversation.id, conversation.user_id, {"status": status, "status_before": data["from"]})


async def _unassign_deleted(session: AsyncSession, conversation: Conversation) -> None:
    """Unassign a locked conversation that is opened again if its assignee was deleted meanwhile."""
    present = select(User.id).where(User.id == conversation.assignee_id, User.deleted_at.is_(None))
    conversation.assignee_id = await session.scalar(present) if conversation.assignee_id is not None else None


async def read_conversation(
    session: AsyncSession, detail: ConversationDetail, side: Side, reader_id: str
) -> ConversationDetail:
    """Mark a conversation as read up to its loaded messages; return it with its new flags."""
    conversation = detail.conversation
    flag, watermark = (
        (conversation.is_read_by_user, conversation.read_by_user_number)
        if side is Side.CUSTOMER
        else (conversation.is_read_by_admin, conversation.read_by_admin_number)
    )
    is_awaited = detail.desk is not None and reader_id in (detail.desk.awaited or ())
    if flag and watermark >= conversation.message_count and not is_awaited:
        return detail
    flags = await mark_read(session, conversation.id, side, conversation.message_count, reader_id=reader_id)
    if flags is None:  # a concurrent request has marked it as read
        flags = await _read_flags(session, conversation.id)
    by_admin, by_user = (flags[flag.name] for flag in (Conversation.is_read_by_admin, Conversation.is_read_by_user))
    return detail._replace(conversation=conversation._replace(is_read_by_admin=by_admin, is_read_by_user=by_user))


async def mark_read(
    session: AsyncSession,
    conversation_id: UUID,
    side: Side,
    up_to: int,
    *,
    scope: str | None = None,
    reader_id: str | None = None,
) -> Mapping[str, bool] | None:
    """Move a side's read watermark up to a message number, and set its flag if that is the newest message.

    Returns both sides' new flags, or None if nothing changed; then nothing is written. A number beyond the newest
    message means the newest. The event names the admin who reads if they were awaited: then it is logged also when the
    side had read everything. Takes one statement, including the event. Raises `NotFound`.
    """
    customer = side is Side.CUSTOMER
    watermark = Conversation.read_by_user_number if customer else Conversation.read_by_admin_number
    flag = Conversation.is_read_by_user if customer else Conversation.is_read_by_admin
    reached = func.least(up_to, Conversation.message_count)
    is_all = reached >= Conversation.message_count
    is_awaited = false() if customer else literal(reader_id, Text) == any_(Conversation.awaited)
    in_scope = [Conversation.id == conversation_id, Conversation.user_id == scope if scope is not None else true()]
    read = (
        update(Conversation)
        .where(*in_scope, or_(watermark < reached, (flag.is_(False) | is_awaited) & is_all))
        .values(
            {
                watermark: func.greatest(watermark, reached),
                flag: flag | is_all,
                Conversation.awaited: case(
                    (is_awaited & is_all, func.nullif(func.array_remove(Conversation.awaited, reader_id), _NOBODY)),
                    else_=Conversation.awaited,
                ),
            }
        )
        .returning(
            Conversation.id, Conversation.user_id, watermark.label("up_to"), _AWAITED_BEFORE.label("awaited"), *_FLAGS
        )
        .cte("read")
    )
    payload: ColumnElement[Any] = func.jsonb_build_object(
        "conversation_id", read.c.id, "by", "user" if customer else "admin", "up_to", read.c.up_to
    )
    if not customer:
        reader = func.jsonb_build_object("reader_id", literal(reader_id, Text))
        was_awaited = literal(reader_id, Text) == any_(read.c.awaited)
        payload = payload.op("||")(case((was_awaited, reader), else_=func.jsonb_build_object()))
    event = select(literal(EventType.CONVERSATION_READ.value), payload, read.c.user_id, read.c.id)
    logged = insert(LoggedEvent).from_select(["type", "payload", "user_id", "conversation_id"], event).cte("logged")
    moved = select(read.c.id, *(read.c[flag.name] for flag in _FLAGS))
    query = moved.select_from(Conversation).outerjoin(read, true()).where(*in_scope).add_cte(logged)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise NotFound("There is no such conversation.")
    moved_id, *flags = row
    if moved_id is None:
        return None
    announce_at_commit(session)
    return {flag.name: value for flag, value in zip(_FLAGS, flags, strict=True)}


async def _read_flags(session: AsyncSession, conversation_id: UUID) -> Mapping[str, bool]:
    row = (await session.execute(select(*_FLAGS).where(Conversation.id == conversation_id))).one_or_none()
    if row is None:  # it has just been deleted
        raise NotFound("There is no such conversation.")
    return {flag.name: value for flag, value in zip(_FLAGS, row, strict=True)}


async def mark_unread(session: AsyncSession, conversation_id: UUID) -> bool:
    """Mark a conversation as unread by the admins; return whether it was read. The watermark of "seen" stays."""
    user_id = await session.scalar(
        update(Conversation)
        .where(Conversation.id == conversation_id, Conversation.is_read_by_admin)
        .values(is_read_by_admin=False)
        .returning(Conversation.user_id)
    )
    if user_id is None:
        if await session.scalar(select(Conversation.id).where(Conversation.id == conversation_id)) is None:
            raise NotFound("There is no such conversation.")
        return False
    await log_update(session, conversation_id, user_id, {"is_read_by_admin": False})
    return True


async def delete_conversations(
    session: AsyncSession,
    conversation_ids: Iterable[UUID],
    *,
    actor_id: str,
    actor_role: ActorRole = ActorRole.ADMIN,
    data: dict[str, Any] | None = None,
) -> int:
    """Delete closed conversations; return how many. The content of large ones is erased later, in batches.

    Skips ids that do not exist. If any conversation is not closed, deletes none and raises `ConversationNotClosed` with
    the ids of all of these. Checks the status under the row lock, so that no message arrives in between. `data` is for
    the audit.
    """
    locked = (
        await session.execute(
            select(Conversation.id, Conversation.user_id, Conversation.status)
            .where(Conversation.id.in_(set(conversation_ids)))
            .order_by(Conversation.id)
            .with_for_update()
        )
    ).all()
    if refused := [row.id for row in locked if row.status not in DELETABLE]:
        raise ConversationNotClosed(refused)
    ids = [row.id for row in locked]
    await session.execute(delete(Conversation).where(Conversation.id.in_(ids)))
    deleted = [(row.user_id, row.id, ConversationDeleted(conversation_id=row.id)) for row in locked]
    if deleted:
        await append_events(session, EventType.CONVERSATION_DELETED, deleted)
    await erase_if_small(session, ids)
    await record(session, *acts_on(AuditAction.CONVERSATION_DELETED, actor_id, ids, role=actor_role, data=data))
    return len(ids)


async def log_update(
    session: AsyncSession,
    conversation_id: UUID,
    user_id: str,
    changes: dict[str, Any],
    *,
    audience: Side | None = None,
) -> None:
    """Append the event of a change to a conversation, other than messages and reads."""
    await append_event(
        session,
        EventType.CONVERSATION_UPDATED,
        {"conversation_id": str(conversation_id), **changes},
        user_id=user_id,
        conversation_id=conversation_id,
        audience=audience,
    )
