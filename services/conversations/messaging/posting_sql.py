"""The statement that posts a message, in four forms, and the queries that explain why one did nothing.

It locks the conversation's row, which orders concurrent posts and numbers them 1, 2, 3 … without gaps. Run alone on the
driver, it is its own transaction. Posts within a larger transaction carry no idempotency key, because a repeated key
would abort that transaction.
"""

import json

from services.conversations.event_log.payloads import logged_message_payload
from services.conversations.records import ATTACHMENT_JSON, attachments_sql
from services.conversations.rules import (
    ACTIVE,
    EFFECTS,
    AuditAction,
    ChosenStatus,
    EntryKind,
    FileState,
    Side,
    Status,
    WebhookType,
)
from shared.events import EventType
from shared.settings import Role

_MESSAGE_COLUMNS = """
    message.id, message.conversation_id, message.number, message.sender_id, message.sender_role,
    sender.name as sender_name, sender.deleted_at is not null as sender_deleted, message.body, message.created_at,
    message.removed_at, message.via
"""

_COLUMNS = {
    "conversation_id": "uuid",
    "scope": "text",
    "sender_id": "text",
    "side": "text",
    "body": "text",
    "preview": "text",
    "chosen_status": "text",
    "seen_number": "int",
    "expected_status": "text",
    "idempotency_key": "text",
    "request_hash": "text",
    "assigns": "bool",
    "via": "text",
}
_ATTACHMENTS = f"${len(_COLUMNS) + 1}::uuid[]"  # a further parameter of posts with files
_ORIGIN = {"address": "text", "request_id": "uuid"}  # the last parameters of posts that the audit records


def _one(*, audited: bool = False, with_files: bool = False) -> str:
    numbered = [*enumerate(_COLUMNS.items(), 1)]
    if audited:
        numbered += enumerate(_ORIGIN.items(), len(_COLUMNS) + 1 + with_files)
    return "select " + ", ".join(f"${n}::{kind} as {name}" for n, (name, kind) in numbered)


def _many(*, audited: bool = False) -> str:
    columns = _COLUMNS | _ORIGIN if audited else _COLUMNS
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(columns.values(), 1))
    return f"select * from unnest({arrays}) as post ({', '.join(columns)})"  # noqa: S608 - built from constants


_EFFECTS = ", ".join(
    f"('{side}', {effect.is_read_by_admin}, {effect.is_read_by_user}, {effect.answers},"
    f" '{json.dumps(effect.after_first)}'::jsonb, '{json.dumps(effect.after_later)}'::jsonb)"
    for side, effect in EFFECTS.items()
)
EFFECT = f"effect (side, is_read_by_admin, is_read_by_user, answers, after_first, after_later) as (values {_EFFECTS})"


# Leaves out posts that would wait for a locked row, and replays, so that neither delays or fails the other posts.
_FREE = """
free as materialized (
    select c.id
    from post
        join conversations as c on c.id = post.conversation_id
        join users as customer on customer.id = c.user_id
    where (post.scope is null or c.user_id = post.scope) and not exists (
        select from messages as earlier
        where earlier.conversation_id = c.id and earlier.sender_id = post.sender_id
            and earlier.idempotency_key = post.idempotency_key
    )
    for no key update of c skip locked for key share of customer skip locked
),"""


def files_sql(ids: str) -> str:
    """Return the SQL of the files of the only post, whose ids are in this parameter.

    They are its sender's own, and not yet sent. The lock makes a second post wait, which then finds them sent.
    """
    return f"""
files as materialized (
    select file.id, file.name, wanted.position
    from unnest({ids}) with ordinality as wanted (id, position)
        join attachments as file on file.id = wanted.id
        join post on post.sender_id = file.uploader_id and post.side = file.side
    where file.message_id is null and file.state in ('{FileState.READY}', '{FileState.SCANNING}')
    order by file.id
    for update of file
),"""  # noqa: S608 - built from constants


def all_files_sql(ids: str) -> str:
    """Return the SQL of whether `files` has all of them. Without, nothing is posted."""
    return f"(select count(*) from files) = cardinality({ids})"  # noqa: S608 - built from constants


def preview_sql(*, with_files: bool) -> str:
    """Return the SQL of a post's preview: without text, the name of the first file."""
    if not with_files:
        return "post.preview"
    return "coalesce(nullif(post.preview, ''), (select left(name, 140) from files where position = 1))"


_SENT = f"""
sent as (
    update attachments as file set
        conversation_id = message.conversation_id, message_id = message.id, position = files.position
    from message cross join files
    where file.id = files.id
    returning file.*
),
listed as (select jsonb_agg({ATTACHMENT_JSON} order by file.position) as files from sent as file),"""  # noqa: S608 - built from constants


# What is done stays assigned to a deleted admin, until it is opened again.
_DONE = ", ".join(f"'{status}'" for status in sorted(frozenset(Status) - ACTIVE))
_ASSIGNEE = f"""case
            when c.status not in ({_DONE}) then c.assignee_id
            else (select id from users where id = c.assignee_id and deleted_at is null)
        end"""  # noqa: S608 - built from constants

# The status that an admin sets with a reply. The assignment that follows from a reply is not an act of its own.
_AUDITED = f"""
audited as (
    insert into audit_entries (actor_id, actor_role, action, conversation_id, data, address, request_id)
    select sender_id, '{Role.ADMIN}', '{AuditAction.CONVERSATION_STATUS}', id,
        jsonb_build_object('from', old_status, 'to', status), address, request_id
    from conversation
    where side = '{Side.ADMIN}' and chosen_status is not null and old_status is distinct from status
),"""  # noqa: S608 - built from constants


# For webhooks only, so that a store without any pays nothing. An admin's first message that opens the conversation
# changes nothing that anybody has seen.
_STATUS_CHANGE = """case
        when conversation.old_status <> conversation.status and was_opened
                and exists (select from webhooks where disabled_at is null and deleted_at is null)
            then jsonb_build_object('status', conversation.status, 'status_before', conversation.old_status)
        else '{}'
    end"""


# As above: the notifications service logs the notification only if it is to be told.
_IS_TOLD = f"""case
        when message.sender_role = '{Side.ADMIN}' and exists (
            select from webhooks
            where disabled_at is null and deleted_at is null and '{WebhookType.NOTIFICATION_CREATED}' = any(types)
        ) then '{{"is_told": true}}'::jsonb
        else '{{}}'
    end"""


def message_sql(files: str | None, *, audited: bool) -> str:
    """Return the SQL that saves the message of a `conversation`, and what follows from it.

    `sender` and `customer` are their rows. `files` is the parameter with the ids of its files.
    """
    count = attachments = None
    if files is not None:
        count, attachments = f"cardinality({files})", "(select files from listed)"
    return f"""
-- 3. The message. A repeated idempotency key fails the whole statement here.
message as (
    insert into messages
        (id, conversation_id, number, sender_id, sender_role, body, created_at, idempotency_key, request_hash, via,
            attachment_count)
    select
        last_message_id, id, message_count, sender_id, side, body, last_activity_at, idempotency_key, request_hash, via,
        {count or 0}
    from conversation
    returning *
),
-- 4. What else the sender changed, for the timeline.
entries as (
    insert into conversation_entries (conversation_id, at, after_number, kind, actor_id, data)
    select id, last_activity_at, message_count, kind, sender_id, jsonb_build_object('from', before, 'to', after)
    from conversation cross join lateral (values
        ('{EntryKind.STATUS}', old_status, status, chosen_status is not null),
        ('{EntryKind.ASSIGNMENT}', old_assignee_id, assignee_id, assignee_id is not null)
    ) as change (kind, before, after, by_hand)
    where by_hand and before is distinct from after
),
{_SENT if files is not None else ""}
{_AUDITED if audited else ""}
-- 5. The event, with what its readers cannot find elsewhere.
logged as (
    insert into events (type, user_id, conversation_id, payload)
    select '{EventType.MESSAGE_POSTED}', conversation.user_id, conversation.id,
        {logged_message_payload(attachments)} || {_STATUS_CHANGE} || {_IS_TOLD}
    from conversation
        join message on message.conversation_id = conversation.id
        join sender on sender.id = message.sender_id
        join customer on customer.id = conversation.user_id
)
"""  # noqa: S608 - built from constants


def _statement(posts: str, *, waits: bool, with_files: bool = False, audited: bool = False) -> str:
    waiting, free, only = ("", "", "") if waits else ("skip locked", _FREE, "and c.id in (select id from free)")
    listed_column = listed = ""
    origin = ", address, request_id" if audited else ""
    if with_files:
        free, only = files_sql(_ATTACHMENTS), f"and {all_files_sql(_ATTACHMENTS)}"
        listed_column, listed = ", listed.files as attachments", "cross join listed"
    return f"""
with
post as ({posts}),
{EFFECT},
-- 1. The sender. Without a row here (deleted) or with the wrong role (an admin whom the store has made a customer),
--    step 2 updates nothing. The lock, here and on the customer, waits for a concurrent deletion of the user, so that
--    no name or address enters the log after it.
sender as (
    select * from users where id in (select sender_id from post) and deleted_at is null for key share {waiting}
),
{free}
-- 2. The conversation: lock it, number the message, move status, flags and counters. One clock reading, taken under
--    the lock, so that times never run against the numbers.
conversation as (
    update conversations as c set
        status = case post.chosen_status when '{ChosenStatus.KEEP}' then c.status else coalesce(
            post.chosen_status, (case when c.message_count = 0 then after_first else after_later end) ->> c.status
        ) end,
        is_read_by_admin = effect.is_read_by_admin,
        is_read_by_user = effect.is_read_by_user,
        message_count = c.message_count + 1,
        last_admin_number = case side when 'admin' then c.message_count + 1 else c.last_admin_number end,
        last_customer_number = case side when 'customer' then c.message_count + 1 else c.last_customer_number end,
        last_message_id = uuidv7(),
        last_message_role = side,
        last_message_preview = {preview_sql(with_files=with_files)},
        assignee_id = coalesce({_ASSIGNEE}, case when post.assigns then post.sender_id end),
        awaited = case
            when side = 'customer' and {_ASSIGNEE} is not null and c.assignee_id <> all (coalesce(c.awaited, '{{}}'))
                then coalesce(c.awaited, '{{}}') || c.assignee_id
            else c.awaited
        end,
        -- An admin's first message, unless it opens the conversation: then no customer has written or can have read.
        (last_activity_at, changed_at, unanswered_since, first_reply_at) = (
            select moment, moment, case when answers then null else coalesce(c.unanswered_since, moment) end,
                case
                    when answers and c.last_admin_number = 0 and (c.message_count > 0 or c.is_read_by_user) then moment
                    else c.first_reply_at
                end
            from (select greatest(clock_timestamp(), c.last_activity_at) as moment) as reading
        )
    from post join effect using (side)
    where c.id = post.conversation_id
        and (post.scope is null or c.user_id = post.scope)
        and exists (
            select from sender where sender.id = post.sender_id
                and (side = 'customer' or synced_role is distinct from 'customer')
        )
        and (post.seen_number is null
            or post.seen_number >= case side when 'admin' then c.last_customer_number else c.last_admin_number end)
        and (post.expected_status is null or post.expected_status = c.status)
        {only}
    returning c.*, old.status as old_status, old.assignee_id as old_assignee_id,
        old.message_count > 0 or old.is_read_by_user as was_opened,
        sender_id, side, body, idempotency_key, request_hash, chosen_status, via{origin}
),
customer as (
    select * from users where id in (select user_id from conversation) for key share
),
{message_sql(_ATTACHMENTS if with_files else None, audited=audited)}
select {_MESSAGE_COLUMNS}{listed_column} from message join sender on sender.id = message.sender_id {listed}
"""  # noqa: S608 - built from constants


# Each by whether a post of it is recorded in the audit.
POST, POST_SKIP_LOCKED, POST_BATCH, POST_WITH_FILES = (
    {
        audited: _statement(
            _many(audited=audited) if is_batch else _one(audited=audited, with_files=with_files),
            waits=waits,
            with_files=with_files,
            audited=audited,
        )
        for audited in (False, True)
    }
    for is_batch, waits, with_files in (
        (False, True, False),
        (False, False, False),
        (True, False, False),
        (False, True, True),
    )
)

REPLAYED = f"""
select {_MESSAGE_COLUMNS}, {attachments_sql("message")} as attachments, message.request_hash = $4 as same_request
from messages as message
    join conversations on conversations.id = message.conversation_id
    join users as sender on sender.id = message.sender_id
where message.conversation_id = $1 and message.sender_id = $2 and message.idempotency_key = $3
"""  # noqa: S608 - built from constants

REJECTION_REASON = """
select exists (select from users where id = $3 and deleted_at is null) as sender_known,
    (select synced_role from users where id = $3) as synced_role,
    (select merged_into from users where id = $3) as merged_into,
    exists (select from conversations where id = $1 and ($2::text is null or user_id = $2)) as found,
    exists (
        select from conversations
        where id = $1 and $4 < case $5 when 'admin' then last_customer_number else last_admin_number end
    ) as has_newer
"""

# The position of the first file, from 1, that cannot be sent: not the sender's own, sent before, blocked, or deleted.
UNUSABLE_FILE = f"""
select min(wanted.position)
from unnest($1::uuid[]) with ordinality as wanted (id, position)
where not exists (
    select from attachments as file
    where file.id = wanted.id and file.uploader_id = $2 and file.side = $3
        and file.message_id is null and file.state in ('{FileState.READY}', '{FileState.SCANNING}')
)
"""  # noqa: S608 - built from constants
