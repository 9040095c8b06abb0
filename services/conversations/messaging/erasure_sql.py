"""The statements of `erasure_batches`, which erase deleted conversations and users."""

from sqlalchemy import text

from shared.events import EventType

LIST_UNFINISHED = "select id from erasures where finished_at is null order by advanced_at, id limit 100"

# Rows are selected by arrays of ids: for these PostgreSQL uses the index. For a join it may scan the whole log.
COUNT = text("""
    select count(*) from unnest(cast(:ids as uuid[])) as deleted (id) cross join lateral (
        (select from messages where conversation_id = deleted.id order by number limit :most)
        union all (select from conversation_entries where conversation_id = deleted.id limit :most)
        union all (select from events where conversation_id = deleted.id order by seq limit :most)
        union all (select from attachments where conversation_id = deleted.id limit :most)
        union all (
            select from webhook_deliveries where conversation_id = deleted.id and response is not null limit :most
        )
    ) as left_over
""")

# Conversations that the user opened before the deletion, locked in the order of ids, as in `delete_conversations`.
HIDE = text(f"""
    with theirs as (
        select id from conversations where user_id = :user_id and created_at <= :asked_at
        order by id limit :size for update
    ),
    gone as (delete from conversations where id in (select id from theirs) returning id, user_id),
    logged as (
        insert into events (type, user_id, conversation_id, payload)
        select '{EventType.CONVERSATION_DELETED}', user_id, id, jsonb_build_object('conversation_id', id) from gone
    )
    select id from gone
""")  # noqa: S608 - built from constants

DELETE_MESSAGES = text("""
    delete from messages where id = any(array(
        select id from messages where conversation_id = :id and number > :after order by number limit :size
    ))
    returning number
""")

DELETE_ENTRIES = text("""
    delete from conversation_entries where id = any(array(
        select id from conversation_entries where conversation_id = :id limit :size
    ))
    returning id
""")

# A trigger adds the deletion of each file's objects.
DELETE_ATTACHMENTS = text("""
    delete from attachments where id = any(array(select id from attachments where conversation_id = :id limit :size))
    returning id
""")

# What webhooks' endpoints answered may quote the conversation.
ERASE_RESPONSES = text("""
    update webhook_deliveries set response = null where id = any(array(
        select id from webhook_deliveries
        where conversation_id = any(cast(:ids as uuid[])) and response is not null order by id limit :size for update
    ))
    returning id
""")

# The event of the deletion keeps its payload.
ERASE_EVENTS = text(f"""
    with next as (
        select id, seq from events where conversation_id = :id and seq > :after order by seq limit :size for update
    ),
    erased as (
        update events set payload = null
        where id = any(array(select id from next)) and type <> '{EventType.CONVERSATION_DELETED}'
    )
    select seq from next
""")  # noqa: S608 - built from constants


def _without_user(role: str) -> str:
    """Return the SQL of the part of a payload that erases the user in a role."""
    person = "jsonb_build_object('id', cast(:user_id as text), 'version', 0, 'deleted', true)"
    erased = f"jsonb_build_object('{role}', {person})"
    return f"case when payload -> '{role}' ->> 'id' = :user_id then {erased} else '{{}}'::jsonb end"


# The parts of a payload that may hold the user's name and address.
_ROLES = ("customer", "sender", "person")
# A merger's event has ids only, and must take effect however late it is handled.
_NAMES_USER = f"""
    type <> '{EventType.USER_MERGED}' and ({" or ".join(f"payload -> '{role}' ->> 'id' = :user_id" for role in _ROLES)})
"""
_ERASED = f"payload = payload || {' || '.join(map(_without_user, _ROLES))}"

_AS_ADMIN = "from messages where sender_id = :user_id and sender_role = 'admin'"

# Each subquery stops at `most` rows.
COUNT_OF_USER = text(f"""
    with written as materialized (select conversation_id {_AS_ADMIN} limit :most),
    answered as (select distinct conversation_id as id from written)
    select (select count(*) from written)
        + (select count(*) from (select from events where user_id = :user_id order by position limit :most) as counted)
        + (select count(*) from (
            select from answered cross join lateral (
                select from events where conversation_id = answered.id order by seq limit :most
            ) as events limit :most
        ) as counted)
""")  # noqa: S608 - built from constants

ERASE_USER = text(f"""
    with named as (
        select id from events where user_id = :user_id
        union select id from events where conversation_id = any(array(select distinct conversation_id {_AS_ADMIN}))
    ),
    theirs as (
        select id from events where id = any(array(select id from named)) and ({_NAMES_USER}) order by seq for update
    )
    update events set {_ERASED} where id = any(array(select id from theirs))
""")  # noqa: S608 - built from constants


def _scan(condition: str) -> str:
    return f"""
        with next as (
            select id, position from events where position > :after and position <= :end and id <> :event_id {condition}
            order by position limit :size
        ),
        theirs as (
            select id from events where id = any(array(select id from next)) and ({_NAMES_USER}) order by seq for update
        ),
        erased as (update events set {_ERASED} where id = any(array(select id from theirs)) returning 1)
        select max(position) as last, count(*) as looked_at, (select count(*) from erased) as erased from next
    """  # noqa: S608 - built from constants


ERASE_IN_OWN_EVENTS = text(_scan("and user_id = :user_id"))
ERASE_IN_WHOLE_LOG = text(_scan(""))
POSITION_OF = text("select position from events where id = :id")

# Of a user's erasure: those of their conversations, with the content, and those of ids that were merged into theirs.
_MAY_BE_PART = """
    part.user_id = any(array(select asked.user_id union all select id from users where merged_into = asked.user_id))
        and (part.conversation_id is null) = (part.user_id <> asked.user_id)
        and (asked.content or part.conversation_id is null)
"""
_IS_PART = f"{_MAY_BE_PART} and part.asked_at >= asked.asked_at"
HAS_UNFINISHED_PARTS = text(f"""
    select exists (
        select from erasures as asked join erasures as part on {_MAY_BE_PART}
        where asked.id = :id and part.finished_at is null
    )
""")  # noqa: S608 - built from constants
COUNT_PARTS = text(f"""
    select coalesce(sum(part.erased), 0)::bigint from erasures as asked join erasures as part on {_IS_PART}
    where asked.id = :id
""")  # noqa: S608 - built from constants
PROGRESS = text(f"""
    select id, user_id, content, erased + (
        select coalesce(sum(part.erased), 0)::bigint from erasures as part
        where {_IS_PART} and asked.finished_at is null
    ), asked_at, finished_at, asked_by, counts
    from erasures as asked where id = :id and conversation_id is null
""")  # noqa: S608 - built from constants

STATE = text(f"""
    with unfinished as (select * from erasures where finished_at is null),
    counted as (
        select id, erased from unfinished union
        select part.id, part.erased from unfinished as asked join erasures as part on {_IS_PART}
            where asked.conversation_id is null
    )
    select count(*), (select coalesce(sum(erased), 0)::bigint from counted),
        coalesce(extract(epoch from clock_timestamp() - max(advanced_at))::float8, 0)
    from unfinished
""")  # noqa: S608 - built from constants

PURGE = text("""
    delete from erasures where id in (
        select id from erasures
        where finished_at < clock_timestamp() - make_interval(secs => 86400 * case
            when conversation_id is null then greatest(cast(:retention as float8), cast(:receipts as float8))
            else cast(:retention as float8)
        end)
        order by id limit :size
    )
    returning id
""")
