"""What the conversations service holds of a person, in pages. Each page is a transaction of its own.

So an export holds no connection while it is sent. What is posted while it runs is not in it; if something of it is
deleted meanwhile, it ends with `Interrupted`.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from services.conversations.records import OrderRow, attachments_sql, columns
from services.conversations.rules import EntryKind, FileState, Side
from shared.database.transactions import ConnectionProvider, request_connection

PAGE: Final = 100
_IDS: Final = 10_000  # ids read at once
_NEWEST_MERGED: Final = 50  # ids, which must fit into an address
_FIRST_ID: Final = UUID(int=0)
_LONG_AGO: Final = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


class Interrupted(Exception):  # noqa: N818 - what happened is no fault
    """Something of the person was deleted while it was exported."""


class PersonRow(NamedTuple):
    """A person's profile."""

    id: str
    role: str
    name: str | None
    email: str | None
    locale: str | None
    zoneinfo: str | None
    custom: dict[str, Any] | None
    created_at: datetime
    synced_at: datetime | None
    deleted_at: datetime | None


class ExportedConversation(NamedTuple):
    """A conversation of the person."""

    id: UUID
    subject: str
    status: str
    order_number: str | None
    message_count: int
    read_by_user_number: int
    created_at: datetime
    last_activity_at: datetime
    labels: list[str]


async def list_ids(acquire: ConnectionProvider, user_id: str) -> list[str]:
    """Return the newest ids that were merged into the person to whom an id belongs, then the person's own.

    What is of older ones has long been the person's, also in the notifications service.
    """
    async with request_connection(acquire) as connection:
        person_id = await connection.fetchval("select merged_into from users where id = $1", user_id) or user_id
        rows = await connection.fetch(_MERGED, person_id, _NEWEST_MERGED)
    return [*(row["id"] for row in rows), person_id]


class Queries:
    """The queries about one person."""

    def __init__(self, acquire: ConnectionProvider, user_id: str) -> None:
        self._acquire, self._user_id = acquire, user_id

    async def find_person(self) -> PersonRow | None:
        """Return the person's profile; None if there is no such user."""
        rows = await self._fetch(_PERSON)
        return PersonRow._make(rows[0]) if rows else None

    async def list_sessions(self) -> Sequence[Any]:
        """Return the person's browser sessions."""
        return await self._fetch(_SESSIONS)

    async def list_conversations(self) -> list[ExportedConversation]:
        """Return all conversations of the person, oldest first: a few hundred bytes each."""
        return [ExportedConversation._make(row) for row in await self._fetch(_CONVERSATIONS)]

    async def was_ever_admin(self) -> bool:
        """Return whether the person is or was an admin."""
        [row] = await self._fetch(_WAS_EVER_ADMIN)
        return bool(row[0])

    async def orders(self) -> AsyncIterator[list[OrderRow]]:
        """Yield pages of the person's orders, also of deleted ones, as far as they are kept."""
        after = ""
        while rows := await self._fetch(_ORDERS, after, PAGE):
            yield [OrderRow._make(row) for row in rows]
            after = rows[-1]["id"]

    async def messages(
        self, conversation: ExportedConversation, *, with_files: bool = False
    ) -> AsyncIterator[Sequence[Any]]:
        """Yield pages of a conversation's messages, or with `with_files` only the numbers and files of those."""
        after = 0
        while after < conversation.message_count:
            last = min(after + PAGE, conversation.message_count)
            rows = await self._fetch(_MESSAGES, conversation.id, after, last)
            if len(rows) < last - after:  # numbers have no gaps
                raise Interrupted("A conversation was deleted while it was exported.")
            yield [row for row in rows if row["attachments"]] if with_files else rows
            after = last

    async def entries(self, conversation_id: UUID, kinds: Sequence[EntryKind]) -> AsyncIterator[Sequence[Any]]:
        """Yield pages of what happened in a conversation beside messages."""
        key: tuple[int, datetime, UUID] = (-1, _LONG_AGO, _FIRST_ID)
        while rows := await self._fetch(_ENTRIES, conversation_id, [str(kind) for kind in kinds], *key, PAGE):
            yield rows
            key = (rows[-1]["after_number"], rows[-1]["at"], rows[-1]["id"])

    async def unsent_files(self) -> Sequence[Any]:
        """Return the files that the person has uploaded and not sent; these are kept for a day."""
        return await self._fetch(_UNSENT)

    async def written_as_admin(self) -> AsyncIterator[Sequence[Any]]:
        """Yield pages of the messages that the person wrote as an admin."""
        async for rows in self._by_ids(_ADMIN_MESSAGE_IDS, _ADMIN_MESSAGES):
            yield rows

    async def notes(self) -> AsyncIterator[Sequence[Any]]:
        """Yield pages of the notes that the person wrote."""
        async for rows in self._by_ids(_NOTE_IDS, _NOTES):
            yield rows

    async def assigned(self) -> Sequence[Any]:
        """Return the ids of the conversations that are assigned to the person."""
        return await self._fetch(_ASSIGNED)

    async def acts(self) -> AsyncIterator[Sequence[Any]]:
        """Yield pages of what the audit has of the person's own acts."""
        key: tuple[datetime, UUID] = (_LONG_AGO, _FIRST_ID)
        while rows := await self._fetch(_ACTS, *key, PAGE):
            yield rows
            key = (rows[-1]["at"], rows[-1]["id"])

    async def check_still_there(self, conversations: Sequence[ExportedConversation]) -> None:
        """Raise `Interrupted` if the person or one of the conversations was deleted meanwhile."""
        [row] = await self._fetch(_STILL_THERE, [conversation.id for conversation in conversations])
        if row["deleted"] or row["conversations"] < len(conversations):
            raise Interrupted("The user or a conversation was deleted during the export.")

    async def _by_ids(self, list_ids: str, read: str) -> AsyncIterator[Sequence[Any]]:
        """Yield pages of rows that no index has in the order of ids: many ids are sorted at once."""
        after = _FIRST_ID
        while ids := [row[0] for row in await self._fetch(list_ids, after, _IDS)]:
            for start in range(0, len(ids), PAGE):
                if rows := await self._run(read, ids[start : start + PAGE]):
                    yield rows
            after = ids[-1]

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        return await self._run(statement, self._user_id, *values)

    async def _run(self, statement: str, *values: Any) -> Sequence[Any]:
        async with request_connection(self._acquire) as connection:
            return await connection.fetch(statement, *values)


_MERGED: Final = "select id from users where merged_into = $1 order by merged_at desc nulls first limit $2"
_PERSON: Final = f"select {columns(PersonRow, 'u')} from users as u where u.id = $1"  # noqa: S608 - built from constants
_SESSIONS: Final = "select created_at, last_seen_at from sessions where user_id = $1 order by created_at"
_CONVERSATIONS: Final = """
    select c.id, c.subject, c.status, o.number, c.message_count, c.read_by_user_number, c.created_at,
        c.last_activity_at,
        case when c.label_ids = '{}' then '{}'::text[] else array(
            select name from labels where id = any(c.label_ids) order by folded
        ) end
    from conversations as c left join orders as o on o.id = c.order_id
    where c.user_id = $1 order by c.created_at, c.id
"""
_WAS_EVER_ADMIN: Final = f"""
    select exists (select from users where id = $1 and role = '{Side.ADMIN}')
        or exists (select from messages where sender_id = $1 and sender_role = '{Side.ADMIN}')
"""  # noqa: S608 - built from constants
_ORDERS: Final = f"""
    select {columns(OrderRow, "o")} from orders as o where o.user_id = $1 and o.id > $2 order by o.id limit $3
"""  # noqa: S608 - built from constants
_MESSAGES: Final = f"""
    select m.number, m.sender_role, m.body, m.created_at, m.via, m.removed_at is not null as removed,
        u.name as sender_name, {attachments_sql("m")} as attachments
    from conversations as c
    join messages as m on m.conversation_id = c.id
    join users as u on u.id = m.sender_id
    where c.user_id = $1 and c.id = $2 and m.number > $3 and m.number <= $4 order by m.number
"""  # noqa: S608 - built from constants
_ENTRIES: Final = """
    select e.id, e.at, e.after_number, e.kind, e.data, u.name as actor_name
    from conversations as c
    join conversation_entries as e on e.conversation_id = c.id
    left join users as u on u.id = e.actor_id
    where c.user_id = $1 and c.id = $2 and e.kind = any($3) and (e.after_number, e.at, e.id) > ($4, $5, $6)
    order by e.after_number, e.at, e.id limit $7
"""
_UNSENT: Final = f"""
    select id, name, size, content_type, sha256, state, created_at from attachments
    where uploader_id = $1 and message_id is null and state <> '{FileState.UPLOADING}' order by created_at, id
"""  # noqa: S608 - built from constants
_ADMIN_MESSAGE_IDS: Final = f"""
    select id from messages where sender_id = $1 and sender_role = '{Side.ADMIN}' and id > $2 order by id limit $3
"""  # noqa: S608 - built from constants
_ADMIN_MESSAGES: Final = f"""
    select m.conversation_id, m.number, m.created_at as sent_at, m.via, m.removed_at is not null as removed, m.body,
        {attachments_sql("m")} as attachments
    from messages as m join conversations as c on c.id = m.conversation_id where m.id = any($1) order by m.id
"""  # noqa: S608 - built from constants
_NOTE_IDS: Final = f"""
    select id from conversation_entries where actor_id = $1 and kind = '{EntryKind.NOTE}' and id > $2
    order by id limit $3
"""  # noqa: S608 - built from constants
_NOTES: Final = """
    select e.conversation_id, e.at, e.data ->> 'body' as body
    from conversation_entries as e join conversations as c on c.id = e.conversation_id
    where e.id = any($1) order by e.id
"""
_ASSIGNED: Final = "select id from conversations where assignee_id = $1 order by id"
_ACTS: Final = """
    select id, at, action, conversation_id, target_id, data, address from audit_entries
    where actor_id = $1 and (at, id) > ($2, $3) order by at, id limit $4
"""
_STILL_THERE: Final = """
    select (select deleted_at is not null from users where id = $1) as deleted,
        (select count(*) from conversations where user_id = $1 and id = any($2)) as conversations
"""
