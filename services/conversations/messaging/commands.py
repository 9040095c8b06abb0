"""Every write to a conversation but the posting itself, one function each. None of them commits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Uuid, bindparam, delete, func, literal, or_, select, text, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.errors import ConversationNotClosed, IdempotencyKeyReused, NewerMessages
from services.conversations.event_log.append import append_event
from services.conversations.messaging.erasure_batches import erase_at_once
from services.conversations.messaging.idempotency import IdempotencyKey
from services.conversations.messaging.posting import Post, post_message
from services.conversations.models import Conversation, CreateKey, LoggedEvent, Order, User
from services.conversations.records import ConversationDetail
from services.conversations.rules import DELETABLE, Side, Status
from shared.events import ConversationDeleted, EventType
from shared.problems import Invalid, NotFound, Unauthenticated

_FLAGS = (Conversation.is_read_by_user, Conversation.is_read_by_admin)


@dataclass(frozen=True, slots=True)
class NewConversation:
    """What a conversation is created from, by the customer (`opened_by` is `user_id`) or by an admin."""

    user_id: str
    subject: str
    opened_by: str
    side: Side
    order_id: str | None = None
    body: str | None = None
    status: Status | None = None


async def create_conversation(
    session: AsyncSession, new: NewConversation, once: IdempotencyKey | None = None
) -> tuple[UUID, bool]:
    """Create a conversation, with its first message if there is one; return its id, and whether it is a replay.

    Raises `Invalid` for a customer or an order that is not there to be used, `IdempotencyKeyReused`, or `NotFound`
    when the request comes again after its conversation was deleted.
    """
    claimed = await _claim_key(session, new.opened_by, once) if once else None
    if once and claimed is None:
        return await _replayed(session, new.opened_by, once), True
    if new.side is Side.ADMIN:
        await _check_customer(session, new.user_id)
    if new.order_id is not None:
        await _check_order(session, new.order_id, new.user_id)
    identity = await _open(session, new, claimed)
    if new.body is not None:
        first = Post(identity, new.opened_by, new.side, new.body, chosen_status=new.status)
        await post_message(session, first)
    return identity, False


async def set_status(
    session: AsyncSession, conversation_id: UUID, status: Status, *, seen_number: int | None = None
) -> None:
    """Set the status by hand, any to any. Setting what it is already writes nothing.

    Raises `NotFound`, or `NewerMessages` when the customer has written after `seen_number`.
    """
    conversation = await session.get(Conversation, conversation_id, with_for_update=True, populate_existing=True)
    if conversation is None:
        raise NotFound("There is no such conversation.")
    if seen_number is not None and seen_number < conversation.last_customer_number:
        raise NewerMessages("The customer has written since you last looked. Nothing was set.")
    if conversation.status == status:
        return
    conversation.status = status
    conversation.changed_at = func.clock_timestamp()
    await session.flush()
    await _log_update(session, conversation_id, conversation.user_id, {"status": status})


async def read_conversation(session: AsyncSession, thread: ConversationDetail, side: Side) -> ConversationDetail:
    """Read a conversation as far as it is loaded, and return it as it is then."""
    found = thread.conversation
    flag, watermark = (
        (found.is_read_by_user, found.read_by_user_number)
        if side is Side.CUSTOMER
        else (found.is_read_by_admin, found.read_by_admin_number)
    )
    if flag and watermark >= found.message_count:
        return thread
    flags = await mark_read(session, found.id, side, found.message_count)
    if flags is None:  # somebody else has read it meanwhile
        flags = await _flags_of(session, found.id)
    by_admin, by_user = (flags[flag.name] for flag in (Conversation.is_read_by_admin, Conversation.is_read_by_user))
    return thread._replace(conversation=found._replace(is_read_by_admin=by_admin, is_read_by_user=by_user))


async def mark_read(
    session: AsyncSession, conversation_id: UUID, side: Side, up_to: int, *, scope: str | None = None
) -> Mapping[str, bool] | None:
    """Move one side's watermark up to a message number; the flag follows when that is the newest.

    Returns both sides' flags as they are then, or None for a read that moves nothing, which writes nothing. A number
    beyond the newest message means the newest. One statement does all, with its event. Raises `NotFound`.
    """
    customer = side is Side.CUSTOMER
    watermark = Conversation.read_by_user_number if customer else Conversation.read_by_admin_number
    flag = Conversation.is_read_by_user if customer else Conversation.is_read_by_admin
    reached = func.least(up_to, Conversation.message_count)
    mine = [Conversation.id == conversation_id, Conversation.user_id == scope if scope is not None else true()]
    read = (
        update(Conversation)
        .where(*mine, or_(watermark < reached, flag.is_(False) & (reached >= Conversation.message_count)))
        .values({watermark: func.greatest(watermark, reached), flag: flag | (reached >= Conversation.message_count)})
        .returning(Conversation.id, Conversation.user_id, watermark.label("up_to"), *_FLAGS)
        .cte("read")
    )
    told = func.jsonb_build_object(
        "conversation_id", read.c.id, "by", "user" if customer else "admin", "up_to", read.c.up_to
    )
    event = select(literal(EventType.CONVERSATION_READ.value), told, read.c.user_id, read.c.id)
    logged = insert(LoggedEvent).from_select(["type", "payload", "user_id", "conversation_id"], event).cte("logged")
    moved = select(read.c.id, *(read.c[flag.name] for flag in _FLAGS))
    query = moved.select_from(Conversation).outerjoin(read, true()).where(*mine).add_cte(logged)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise NotFound("There is no such conversation.")
    identity, *flags = row
    return None if identity is None else {flag.name: value for flag, value in zip(_FLAGS, flags, strict=True)}


async def _flags_of(session: AsyncSession, conversation_id: UUID) -> Mapping[str, bool]:
    row = (await session.execute(select(*_FLAGS).where(Conversation.id == conversation_id))).one_or_none()
    if row is None:  # deleted meanwhile
        raise NotFound("There is no such conversation.")
    return {flag.name: value for flag, value in zip(_FLAGS, row, strict=True)}


async def mark_unread(session: AsyncSession, conversation_id: UUID) -> None:
    """Give a conversation back as unread by the admins. What was seen stays seen."""
    changed = await session.scalar(
        update(Conversation)
        .where(Conversation.id == conversation_id, Conversation.is_read_by_admin)
        .values(is_read_by_admin=False)
        .returning(Conversation.user_id)
    )
    if changed is None:
        await _must_exist(session, conversation_id)
        return
    await _log_update(session, conversation_id, changed, {"is_read_by_admin": False})


async def delete_conversations(session: AsyncSession, conversation_ids: Iterable[UUID]) -> int:
    """Delete closed conversations; return how many there were. What is left of big ones is erased behind it.

    Raises `ConversationNotClosed`, naming every refused one, and then deletes none. Ids that are no longer there are
    skipped. The status is looked at under the row lock, so that no message slips in between.
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
    found = [row.id for row in locked]
    await session.execute(delete(Conversation).where(Conversation.id.in_(found)))
    for row in locked:
        await append_event(
            session,
            EventType.CONVERSATION_DELETED,
            ConversationDeleted(conversation_id=row.id),
            user_id=row.user_id,
            conversation_id=row.id,
        )
    await erase_at_once(session, found)
    return len(found)


async def _log_update(
    session: AsyncSession, conversation_id: UUID, user_id: str, changes: dict[str, str | bool]
) -> None:
    await append_event(
        session,
        EventType.CONVERSATION_UPDATED,
        {"conversation_id": str(conversation_id), **changes},
        user_id=user_id,
        conversation_id=conversation_id,
    )


async def _must_exist(session: AsyncSession, conversation_id: UUID, scope: str | None = None) -> None:
    query = select(Conversation.id).where(Conversation.id == conversation_id)
    if scope is not None:
        query = query.where(Conversation.user_id == scope)
    if await session.scalar(query) is None:
        raise NotFound("There is no such conversation.")


async def _check_customer(session: AsyncSession, user_id: str) -> None:
    user = await session.get(User, user_id, populate_existing=True)
    if user is None or user.deleted_at is not None or user.role != Side.CUSTOMER:
        raise Invalid("There is no such customer.", ("body", "user_id"))


async def _check_order(session: AsyncSession, order_id: str, user_id: str) -> None:
    theirs = select(Order.id).where(Order.id == order_id, Order.user_id == user_id, Order.deleted_at.is_(None))
    if await session.scalar(theirs) is None:
        raise Invalid("The customer has no such order.", ("body", "order_id"))


async def _claim_key(session: AsyncSession, caller_id: str, once: IdempotencyKey) -> UUID | None:
    """Take the key for a new conversation; None when an earlier request has it. One under way is waited for."""
    claim = (
        insert(CreateKey)
        .values(caller_id=caller_id, key=once.key, request_hash=once.request_hash, conversation_id=func.uuidv7())
        .on_conflict_do_nothing()
        .returning(CreateKey.conversation_id)
    )
    return await session.scalar(claim)


async def _replayed(session: AsyncSession, caller_id: str, once: IdempotencyKey) -> UUID:
    earlier = await session.get_one(CreateKey, (caller_id, once.key))
    if earlier.request_hash != once.request_hash:
        raise IdempotencyKeyReused
    await _must_exist(session, earlier.conversation_id)
    return earlier.conversation_id


async def _open(session: AsyncSession, new: NewConversation, identity: UUID | None) -> UUID:
    """Open a conversation, under this id or a new one, with its event; return its id.

    Raises `Unauthenticated` when who opens it was deleted meanwhile, `Invalid` when the admin's customer was.
    """
    by_admin = new.side is Side.ADMIN
    values: dict[str, Any] = {"id": identity, "user_id": new.user_id, "order_id": new.order_id, "subject": new.subject}
    values |= {"by_admin": by_admin, "opened_by": new.opened_by}
    opened: UUID | None = (await session.execute(_OPEN, values)).scalar_one_or_none()
    if opened is None:
        if by_admin:
            await _check_customer(session, new.user_id)
        raise Unauthenticated("This user was deleted.")
    return opened


# The lock waits for a deletion of the user under way, and then finds nobody.
_OPEN = text(f"""
    with there as (
        select id from users
        where id in (cast(:user_id as text), cast(:opened_by as text)) and deleted_at is null
        order by id for key share
    ),
    clock as materialized (
        select clock_timestamp() as now where not exists (
            select from (values (cast(:user_id as text)), (:opened_by)) as needed (id)
            where id not in (select id from there)
        )
    ),
    opened as (
        insert into conversations (
            id, user_id, order_id, subject, status, is_read_by_admin, is_read_by_user,
            created_at, last_activity_at, changed_at, unanswered_since
        )
        select coalesce(:id, uuidv7()), :user_id, :order_id, :subject, '{Status.OPEN}', :by_admin, not :by_admin,
            now, now, now, now
        from clock
        returning id, user_id
    ),
    logged as (
        insert into events (type, user_id, conversation_id, payload)
        select '{EventType.CONVERSATION_CREATED}', user_id, id, jsonb_build_object('conversation_id', id) from opened
    )
    select id from opened
""").bindparams(bindparam("id", type_=Uuid), bindparam("by_admin", type_=Boolean))  # noqa: S608 - built from constants
