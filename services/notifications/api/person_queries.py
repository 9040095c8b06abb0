"""What this service holds of a person, for an export of their data by the conversations service.

That names all ids of the person, their own one last: what is of a merged id is moved when its event is handled.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from services.notifications.rules import Audience, InboundState
from shared.database.engine import Driver


class Holding(StrEnum):
    """What there may be many of. Each is read in pages, in the order of ids."""

    NOTIFICATIONS = "notifications"
    ADMIN_NOTIFICATIONS = "admin-notifications"
    EMAILS = "emails"
    INBOUND = "inbound-emails"


async def read_profile(connection: Driver, user_ids: Sequence[str]) -> dict[str, Any]:
    """Return what is known of a person, and what they want of emails."""
    [row] = await connection.fetch(_PROFILE, user_ids, user_ids[-1])
    return dict(row)


async def list_held_of(
    connection: Driver, holding: Holding, user_ids: Sequence[str], after: UUID, limit: int
) -> Sequence[dict[str, Any]]:
    """Return what a person has after an id."""
    return [dict(row) for row in await connection.fetch(_HELD[holding], user_ids, after, limit)]


async def read_original_of(connection: Driver, user_ids: Sequence[str], inbound_id: UUID) -> bytes | None:
    """Return an email of a person as it came in; None if it is not theirs, or not kept any more."""
    original: bytes | None = await connection.fetchval(_ORIGINAL, user_ids, inbound_id)
    return original


_PROFILE: Final = """
    select person.name, person.email, person.locale, person.zoneinfo,
        (
            select coalesce(jsonb_agg(jsonb_build_object(
                'conversation_id', conversation_id, 'since', muted_at
            ) order by id), '[]') from mutes where user_id = any($1::text[])
        ) as muted,
        (
            select coalesce(jsonb_agg(jsonb_build_object(
                'reason', reason, 'status', status, 'since', since
            ) order by id), '[]') from suppressions where user_id = any($1::text[])
        ) as suppressed,
        (
            select jsonb_build_object(
                'types', preferences, 'quiet_start', quiet_start, 'quiet_end', quiet_end, 'digest_at', digest_at
            ) from bells where admin_id = $2
        ) as preferences
    from (select $2::text as id) as wanted left join people as person on person.id = wanted.id
"""

_NOT_DELETED: Final = """not exists (
    select from marks where marks.conversation_id = held.conversation_id and marks.deleted_at is not null
)"""

# An email that came in belongs to its author. One that became no message may be a stranger's, who answered an email to
# this person. A held one whose author is not known belongs to the only person who has its sender's address.
_OF_PERSON: Final = f"""
    (held.user_id = any($1::text[]) and (
        held.state in ('{InboundState.RECEIVED}', '{InboundState.POSTED}')
        or held.from_address in (select lower(email) from people where id = any($1))
    ) or (held.state = '{InboundState.HELD}' and held.user_id is null and held.from_address in (
        select lower(person.email) from people as person where person.id = any($1) and not exists (
            select from people as other where lower(other.email) = lower(person.email) and other.id <> all($1)
        )
    )))
"""  # noqa: S608 - built from constants


def _of_each_id(query: str) -> str:
    """Return the SQL of a page of rows, of which `query` finds those of the id `own.id`, by an index in their order."""
    return f"""
        select held.* from unnest($1::text[]) as own (id) cross join lateral ({query} order by id limit $3) as held
        order by id limit $3
    """  # noqa: S608 - built from constants


_HELD: Final = {
    Holding.NOTIFICATIONS: _of_each_id(f"""
        select id, conversation_id, message_id, number, subject, preview, created_at, read_at
        from notifications as held where user_id = own.id and id > $2 and {_NOT_DELETED}
    """),  # noqa: S608 - built from constants
    Holding.ADMIN_NOTIFICATIONS: _of_each_id(f"""
        select id, type, conversation_id, number, subject, occurred_at
        from admin_notifications as held where recipient_id = own.id and id > $2 and {_NOT_DELETED}
    """),  # noqa: S608 - built from constants
    # The subject of a deleted conversation may not be erased yet.
    Holding.EMAILS: _of_each_id(f"""
        select id, conversation_id, case when {_NOT_DELETED} then subject end as subject, state, reason,
            to_address as "to", created_at, finished_at,
            array(
                select number from email_messages where email_id = held.id and not left_out order by number
            ) as numbers,
            (
                select coalesce(jsonb_agg(jsonb_build_object(
                    'at', finished_at, 'outcome', outcome, 'code', code, 'reply', reply
                ) order by id), '[]') from email_tries where email_id = held.id
            ) as attempts
        from emails as held where recipient_id = own.id and audience <> '{Audience.SUPPORT}' and id > $2
    """),  # noqa: S608 - built from constants
    Holding.INBOUND: f"""
        select id, conversation_id, kind as becomes, message_id, message_number, from_address as "from", size, state,
            reason, received_at, finished_at, original is not null as original
        from inbound_emails as held where {_OF_PERSON} and id > $2 and {_NOT_DELETED} order by id limit $3
    """,  # noqa: S608 - built from constants
}
_ORIGINAL: Final = f"select original from inbound_emails as held where id = $2 and {_OF_PERSON} and {_NOT_DELETED}"  # noqa: S608 - built from constants
