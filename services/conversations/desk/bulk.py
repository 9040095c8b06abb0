"""Changes to many conversations at once, in one transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.desk.assignment import Assignee, assign_locked
from services.conversations.desk.labels import LabelRow, change_locked, check_distinct, ensure_labels, find_labels
from services.conversations.desk.people import check_admins
from services.conversations.messaging.commands import mark_read, mark_unread, set_status
from services.conversations.models import Conversation
from services.conversations.rules import Side, Status
from shared.database.orm import any_of


@dataclass(frozen=True, slots=True)
class BulkChange:
    """What to change in each conversation; None leaves it as it is."""

    status: Status | None = None
    read: bool | None = None
    assignee: Assignee | None = None
    add_labels: tuple[str, ...] = ()
    remove_labels: tuple[str, ...] = ()


@dataclass(slots=True)
class BulkResult:
    """What became of the conversations. Those in `changed_meanwhile` have newer messages and were left alone."""

    changed: int
    unchanged: int
    changed_meanwhile: list[UUID]
    missing: list[UUID]


async def change_conversations(
    session: AsyncSession, seen: Mapping[UUID, int], change: BulkChange, actor_id: str
) -> BulkResult:
    """Change conversations, each unless it has a message after the number that the caller has seen.

    Raises `Invalid` for an unknown admin or too many labels; then nothing is changed.
    """
    if change.assignee is not None and change.assignee.admin_id is not None:
        await check_admins(session, [change.assignee.admin_id], ("body", "assignee_id"))
    check_distinct(change.add_labels, change.remove_labels, "remove_labels")
    locked = (
        await session.scalars(
            select(Conversation)
            .where(any_of(Conversation.id, seen))
            .order_by(Conversation.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    ).all()
    fresh = [conversation for conversation in locked if conversation.message_count <= seen[conversation.id]]
    added, removed = [], []  # type: list[LabelRow], list[LabelRow]
    if fresh:
        added = await ensure_labels(session, change.add_labels)
        removed = await find_labels(session, change.remove_labels)
    changed = 0
    for conversation in fresh:
        changed += await _change(session, conversation, change, added, removed, actor_id)
    found = {conversation.id for conversation in locked}
    return BulkResult(
        changed=changed,
        unchanged=len(fresh) - changed,
        changed_meanwhile=[conversation.id for conversation in locked if conversation not in fresh],
        missing=[conversation_id for conversation_id in seen if conversation_id not in found],
    )


async def _change(
    session: AsyncSession,
    conversation: Conversation,
    change: BulkChange,
    added: list[LabelRow],
    removed: list[LabelRow],
    actor_id: str,
) -> bool:
    """Change a locked conversation; return whether that changed anything."""
    changes = []
    if change.assignee is not None:
        changes.append(await assign_locked(session, conversation, change.assignee.admin_id, actor_id))
    if added or removed:
        changes.append(await change_locked(session, conversation, added, removed, actor_id, "add_labels"))
    if change.read is True:
        count = conversation.message_count
        changes.append(await mark_read(session, conversation.id, Side.ADMIN, count, reader_id=actor_id) is not None)
    if change.read is False:
        changes.append(await mark_unread(session, conversation.id))
    if change.status is not None:
        changes.append(await set_status(session, conversation.id, change.status, actor_id=actor_id))
    return any(changes)
