"""Labels of conversations. Names are compared without regard to case."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.audit.recording import Act, record
from services.conversations.errors import LabelTaken
from services.conversations.messaging.commands import log_update
from services.conversations.messaging.entries import add_entry, lock_conversation
from services.conversations.models import Conversation, Label
from services.conversations.rules import LABEL_LIMIT, AuditAction, EntryKind, Side
from shared.database.orm import any_of
from shared.database.reader import Reader
from shared.paging import decode_cursor, encode_cursor, plain_text
from shared.problems import Invalid, NotFound


class LabelRow(NamedTuple):
    """A label."""

    id: int
    name: str


def fold(name: str) -> str:
    """Return the form in which names are compared: without case, and the same for composed and decomposed accents."""
    return normalize("NFC", name.casefold())


async def list_labels(reader: Reader, cursor: str | None, limit: int) -> tuple[list[LabelRow], str | None]:
    """Return a page of labels by name, and the cursor of the next."""
    after = decode_cursor(cursor, "labels", plain_text)[0] if cursor is not None else ""
    rows = await reader.fetch(_LABELS, after, limit + 1)
    labels = [LabelRow._make(row) for row in rows[:limit]]
    return labels, encode_cursor("labels", [fold(labels[-1].name)]) if len(rows) > limit else None


async def find_label(reader: Reader, name: str) -> int | None:
    """Return the id of a label, or None."""
    rows = await reader.fetch("select id from labels where folded = $1", fold(name))
    return rows[0][0] if rows else None


async def change_labels(
    session: AsyncSession, conversation_id: UUID, add: Iterable[str], remove: Iterable[str], actor_id: str
) -> None:
    """Add labels to a conversation, creating new ones, and remove others. Raises `NotFound` or `Invalid`."""
    check_distinct(add, remove)
    conversation = await lock_conversation(session, conversation_id)
    added, removed = await ensure_labels(session, add), await find_labels(session, remove)
    await change_locked(session, conversation, added, removed, actor_id)


def check_distinct(add: Iterable[str], remove: Iterable[str], field: str = "remove") -> None:
    """Raise `Invalid` about a field if a label is to be both added and removed."""
    if both := sorted(set(map(fold, add)) & set(map(fold, remove))):
        raise Invalid(f"Add a label or remove it, not both: {', '.join(both)}.", ("body", field))


async def change_locked(
    session: AsyncSession,
    conversation: Conversation,
    add: Sequence[LabelRow],
    remove: Sequence[LabelRow],
    actor_id: str,
    field: str = "add",
) -> bool:
    """Change the labels of a locked conversation; return whether that changed anything.

    Raises `Invalid` about a field if there are too many.
    """
    present = set(conversation.label_ids)
    added = [label for label in add if label.id not in present]
    removed = [label for label in remove if label.id in present]
    if not added and not removed:
        return False
    kept = present - {label.id for label in removed} | {label.id for label in added}
    if len(kept) > LABEL_LIMIT:  # some may belong to labels that were deleted
        kept &= set(await session.scalars(select(Label.id).where(any_of(Label.id, kept))))
    if len(kept) > LABEL_LIMIT:
        msg = f"A conversation can have up to {LABEL_LIMIT} labels; this one would have {len(kept)}."
        raise Invalid(msg, ("body", field), "too_many_labels")
    data = {"added": [label.name for label in added], "removed": [label.name for label in removed]}
    audited = {"added": [label.id for label in added], "removed": [label.id for label in removed]}
    act = Act(AuditAction.CONVERSATION_LABELS, actor_id, conversation.id, data=audited)
    await add_entry(session, conversation, EntryKind.LABELS, actor_id, data, act=act)
    conversation.label_ids = sorted(kept)
    await session.flush()
    await log_update(session, conversation.id, conversation.user_id, {"labels": True}, audience=Side.ADMIN)
    return True


async def ensure_labels(session: AsyncSession, names: Iterable[str]) -> list[LabelRow]:
    """Return the labels with these names, creating those that do not exist."""
    by_form: dict[str, str] = {}
    for name in names:
        by_form.setdefault(fold(name), name)  # the first spelling
    if not by_form:
        return []
    # In the order of the forms: concurrent requests create the same labels.
    rows = [{"name": by_form[form], "folded": form} for form in sorted(by_form)]
    await session.execute(insert(Label).values(rows).on_conflict_do_nothing())
    return await find_labels(session, by_form)


async def rename_label(session: AsyncSession, name: str, new_name: str, actor_id: str) -> LabelRow:
    """Rename a label on all conversations. Raises `NotFound`, or `LabelTaken` if another label has that name."""
    rename = update(Label).where(Label.folded == fold(name)).values(name=new_name, folded=fold(new_name))
    try:
        row = (await session.execute(rename.returning(Label.id, Label.name))).one_or_none()
    except IntegrityError:
        raise LabelTaken(new_name) from None
    if row is None:
        raise NotFound("There is no such label.")
    label = LabelRow._make(row)
    await record(session, Act(AuditAction.LABEL_RENAMED, actor_id, target_id=str(label.id)))
    return label


async def delete_label(session: AsyncSession, name: str, actor_id: str) -> None:
    """Delete a label; conversations no longer show it. Raises `NotFound`."""
    deleted = await session.scalar(delete(Label).where(Label.folded == fold(name)).returning(Label.id))
    if deleted is None:
        raise NotFound("There is no such label.")
    await record(session, Act(AuditAction.LABEL_DELETED, actor_id, target_id=str(deleted)))


async def find_labels(session: AsyncSession, names: Iterable[str]) -> list[LabelRow]:
    """Return the labels with these names that exist."""
    found = select(Label.id, Label.name).where(any_of(Label.folded, {fold(name) for name in names}))
    return [LabelRow._make(row) for row in await session.execute(found.order_by(Label.folded))]


_LABELS = "select id, name from labels where folded > $1 order by folded limit $2"
