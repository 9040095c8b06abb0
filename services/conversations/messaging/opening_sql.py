"""The statement that opens a conversation, in three forms: without a message, with one, and with one that has files.

It is the statement that posts a message (`posting_sql`), except for its first two steps: the conversation is inserted
as its first message leaves it, instead of updated. It finds nothing, and writes nothing, for what is repeated or
refused.
"""

from services.conversations.event_log.payloads import person_payload
from services.conversations.messaging.listing import conversations_sql
from services.conversations.messaging.posting_sql import EFFECT, all_files_sql, files_sql, message_sql, preview_sql
from services.conversations.rules import Side, Status
from shared.events import EventType

_COLUMNS = {
    "known_id": "uuid",
    "user_id": "text",
    "sender_id": "text",
    "side": "text",
    "order_id": "text",
    "subject": "text",
    "body": "text",
    "preview": "text",
    "chosen_status": "text",
    "create_key": "text",
    "create_hash": "text",
    "via": "text",
    "address": "text",
    "request_id": "uuid",
}
_FILES = f"${len(_COLUMNS) + 1}::uuid[]"  # a further parameter of the form with files
_POST = ", ".join(f"${number}::{kind} as {name}" for number, (name, kind) in enumerate(_COLUMNS.items(), 1))
_USER, _SENDER = (f"${[*_COLUMNS].index(name) + 1}" for name in ("user_id", "sender_id"))

# The columns of a new conversation, with the SQL of their values.
_OPENED = {
    "id": "id",
    "user_id": "user_id",
    "order_id": "order_id",
    "subject": "subject",
    "status": f"'{Status.OPEN}'",
    "is_read_by_admin": "is_read_by_admin",
    "is_read_by_user": "is_read_by_user",
    "created_at": "moment",
    "last_activity_at": "moment",
    "changed_at": "moment",
    "unanswered_since": "moment",
}
# What a first message makes of it: the same as in `posting_sql`, applied to a conversation without any.
_WITH_MESSAGE = _OPENED | {
    "status": f"coalesce(chosen_status, after_first ->> '{Status.OPEN}')",
    "unanswered_since": "case when answers then null else moment end",
    "message_count": "1",
    "last_admin_number": f"case when side = '{Side.ADMIN}' then 1 else 0 end",
    "last_customer_number": f"case when side = '{Side.CUSTOMER}' then 1 else 0 end",
    "last_message_id": "uuidv7()",
    "last_message_role": "side",
}

# A first message has an event of its own, which tells admins about the conversation.
_TO_ANNOUNCE = f"""jsonb_build_object('conversation_id', opened.id) || case
        when (select side from post) = '{Side.CUSTOMER}'
            then jsonb_build_object('subject', opened.subject, 'customer', {person_payload("customer")})
        else '{{}}'
    end"""  # noqa: S608 - built from constants
_TO_LOG = "jsonb_build_object('conversation_id', opened.id)"


def _statement(*, with_message: bool, with_files: bool = False) -> str:
    columns = _WITH_MESSAGE | {"last_message_preview": preview_sql(with_files=with_files)} if with_message else _OPENED
    files, has_all = (files_sql(_FILES), f"and {all_files_sql(_FILES)}") if with_files else ("", "")
    message = f", {message_sql(_FILES if with_files else None, audited=True)}" if with_message else ""
    return f"""
with
post as (select {_POST}),
{EFFECT},
-- 1. The sender and the customer. The lock waits for a concurrent deletion of a user, and then finds no row.
people as (
    select * from users where id in ({_USER}, {_SENDER}) and deleted_at is null order by id for key share
),
sender as (
    select people.* from people join post on people.id = sender_id
    where side = '{Side.CUSTOMER}' or synced_role is distinct from '{Side.CUSTOMER}'
),
customer as (
    select people.* from people join post on people.id = user_id
    where side = '{Side.CUSTOMER}' or people.role = '{Side.CUSTOMER}'
),
{files}
allowed as materialized (
    select post.*, coalesce(known_id, uuidv7()) as id, clock_timestamp() as moment
    from post
    where exists (select from sender) and exists (select from customer)
        and (order_id is null or exists (
            select from orders
            where orders.id = post.order_id and orders.user_id = post.user_id and orders.deleted_at is null
        ))
        {has_all}
),
-- A concurrent request with the same key is waited for.
claimed as (
    insert into create_keys (caller_id, key, request_hash, conversation_id)
    select sender_id, create_key, create_hash, id from allowed where create_key is not null
    on conflict do nothing
    returning conversation_id
),
-- 2. The conversation, and its event.
opened as (
    insert into conversations ({", ".join(columns)})
    select {", ".join(columns.values())}
    from allowed as post join effect using (side)
    where create_key is null or exists (select from claimed)
    returning *
),
created as (
    insert into events (type, user_id, conversation_id, payload)
    select '{EventType.CONVERSATION_CREATED}', opened.user_id, opened.id, {_TO_LOG if with_message else _TO_ANNOUNCE}
    from opened cross join customer
    returning conversation_id
),
-- Joined with the event, so that the message's comes after it.
conversation as (
    select opened.*, '{Status.OPEN}' as old_status, null as old_assignee_id, false as was_opened,
        sender_id, side, body, null as idempotency_key, null as request_hash, chosen_status, via, address, request_id
    from opened join created on created.conversation_id = opened.id cross join post
)
{message}
{conversations_sql("select * from opened")}
"""  # noqa: S608 - built from constants


OPEN = _statement(with_message=False)
OPEN_WITH_MESSAGE = _statement(with_message=True)
OPEN_WITH_FILES = _statement(with_message=True, with_files=True)
