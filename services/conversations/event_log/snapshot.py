"""The current state as event payloads, for readers whose position in the log was purged."""

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.payloads import STORED_MESSAGE_PAYLOAD, person_payload
from services.conversations.rules import EntryKind
from shared.events import Kind, Snapshot
from shared.problems import Invalid


async def read_snapshot(session: AsyncSession, kind: Kind, *, after: str | None, limit: int) -> Snapshot:
    """Return the items of a kind after the id `after`, or from the start, in the order of ids."""
    rows = (await session.execute(_STATEMENTS[kind], {"after": _id(kind, after), "limit": limit})).all()
    items: list[dict[str, Any]] = [payload for row in rows for payload in row.payloads]
    return Snapshot(items=items, last=str(rows[-1].id) if len(rows) == limit else None)


def _id(kind: Kind, value: str | None) -> str | UUID | None:
    try:
        return value if kind is Kind.PEOPLE or value is None else UUID(value)
    except ValueError:
        raise Invalid("must be a UUID", ("query", "after")) from None


_STATEMENTS = {
    Kind.PEOPLE: text(f"""
        select person.id, jsonb_build_array(jsonb_build_object('person', {person_payload("person")})) as payloads
        from users as person
        where (cast(:after as text) is null or person.id > :after)
        order by person.id limit :limit
    """),  # noqa: S608 - built from constants
    Kind.READS: text("""
        select id, jsonb_build_array(
            jsonb_build_object('conversation_id', id, 'by', 'user', 'up_to', read_by_user_number),
            jsonb_build_object('conversation_id', id, 'by', 'admin', 'up_to', read_by_admin_number)
        ) as payloads
        from conversations
        where (cast(:after as uuid) is null or id > :after)
        order by id limit :limit
    """),
    Kind.MESSAGES: text(f"""
        select message.id, jsonb_build_array({STORED_MESSAGE_PAYLOAD}) as payloads
        from messages as message
        join conversations as conversation on conversation.id = message.conversation_id
        join users as sender on sender.id = message.sender_id
        join users as customer on customer.id = conversation.user_id
        where message.removed_at is null and (cast(:after as uuid) is null or message.id > :after)
        order by message.id limit :limit
    """),  # noqa: S608 - built from constants
    Kind.REMOVED: text("""
        select id, jsonb_build_array(
            jsonb_build_object('conversation_id', conversation_id, 'message_id', id, 'number', number)
        ) as payloads
        from messages
        where removed_at is not null and (cast(:after as uuid) is null or id > :after)
        order by id limit :limit
    """),
    Kind.NOTES: text(f"""
        select note.id, jsonb_build_array(jsonb_build_object(
            'conversation_id', conversation.id, 'note_id', note.id, 'mentions', awaited.ids, 'at', note.at,
            'actor_id', note.actor_id, 'subject', conversation.subject, 'number', note.after_number,
            'body', note.data ->> 'body'
        )) as payloads
        from conversation_entries as note
        join conversations as conversation on conversation.id = note.conversation_id
        cross join lateral (
            select jsonb_agg(id) as ids from jsonb_array_elements_text(note.data -> 'mentions') as mentioned (id)
            where id = any(conversation.awaited) and id <> note.actor_id
        ) as awaited
        where note.kind = '{EntryKind.NOTE}' and awaited.ids is not null
            and (cast(:after as uuid) is null or note.id > :after)
        order by note.id limit :limit
    """),  # noqa: S608 - built from constants
    Kind.ASSIGNMENTS: text(f"""
        select entry.id, jsonb_build_array(jsonb_build_object(
            'conversation_id', conversation.id, 'assignee_id', conversation.assignee_id, 'actor_id', entry.actor_id,
            'entry_id', entry.id, 'subject', conversation.subject, 'number', entry.after_number, 'at', entry.at
        )) as payloads
        from conversation_entries as entry
        join conversations as conversation on conversation.id = entry.conversation_id
        where entry.kind = '{EntryKind.ASSIGNMENT}' and conversation.assignee_id = any(conversation.awaited)
            and entry.data ->> 'to' = conversation.assignee_id and entry.actor_id <> conversation.assignee_id
            and (cast(:after as uuid) is null or entry.id > :after)
        order by entry.id limit :limit
    """),  # noqa: S608 - built from constants
}
