"""What an address that takes emails stands for: a conversation, what a reply becomes there, and who may write it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from services.notifications.mail.addresses import mailbox_or_none
from services.notifications.mail.reply_addresses import ReplyToken
from services.notifications.rules import Audience, InboundKind, InboundReason
from shared.database.engine import Driver


@dataclass(frozen=True, slots=True)
class Bound:
    """What an email is for. `addresses`: of those who may write it; for a reply those of our email's recipient.

    `user_id` is whose words it becomes, None if that is not known. `is_proven`: its sender knows an address that nobody
    can guess; else only a check of the sender shows who wrote. `held`: why it is held, also if the sender is right.
    """

    conversation_id: UUID
    kind: InboundKind
    user_id: str | None
    addresses: frozenset[str] = frozenset()
    email_id: UUID | None = None
    newest_number: int = 0
    expired: bool = False
    conversation_deleted: bool = False
    user_deleted: bool = False
    is_proven: bool = True
    to_support: bool = False
    held: InboundReason | None = None


@dataclass(frozen=True, slots=True)
class Anyone:
    """What the address for new conversations stands for: anybody may write to it."""


Target = Bound | Anyone


async def find_bound(connection: Driver, tokens: Sequence[ReplyToken]) -> list[Bound | None]:
    """Return what each token stands for; None where there is no such token."""
    rows = await connection.fetch(_BOUND, [token.email_id for token in tokens])
    found = {ReplyToken(row["email_id"], row["token_hash"]): _bound(row, is_proven=True) for row in rows}
    return [found.get(token) for token in tokens]


async def find_answered(connection: Driver, email_ids: list[UUID]) -> list[Bound]:
    """Return what replies to these emails of ours are for, the newest first; not those that nobody can answer."""
    rows = await connection.fetch(_ANSWERED, email_ids)
    return [_bound(row, is_proven=False) for row in rows]


def _bound(row: Mapping[str, Any], *, is_proven: bool) -> Bound:
    to_customer, to_support = (row["audience"] == audience for audience in (Audience.CUSTOMER, Audience.SUPPORT))
    kind = InboundKind.MESSAGE if to_customer else InboundKind.ADMIN_MESSAGE
    return Bound(
        row["conversation_id"],
        InboundKind.NOTE if row["as_note"] else kind,
        None if to_support else row["user_id"],
        frozenset() if to_support else frozenset(filter(None, map(mailbox_or_none, (row["sent_to"], row["now_at"])))),
        row["email_id"],
        row["newest_number"],
        expired=row["expired"],
        conversation_deleted=row["conversation_deleted"],
        user_deleted=row["user_deleted"],
        is_proven=is_proven,
        to_support=to_support,
    )


_FOUND: Final = f"""
select emails.id as email_id, emails.conversation_id, emails.recipient_id as user_id, emails.audience,
    address.token_hash, address.newest_number, address.as_note, address.expires_at < clock_timestamp() as expired,
    marks.deleted_at is not null as conversation_deleted, coalesce(people.deleted, false) as user_deleted,
    emails.to_address as sent_to, people.email as now_at
from reply_addresses as address
    join emails on emails.id = address.email_id
    left join marks on marks.conversation_id = emails.conversation_id
    left join people on people.id = emails.recipient_id and emails.audience <> '{Audience.SUPPORT}'
"""  # noqa: S608 - built from constants
# A subquery hides the ids from PostgreSQL's planner, which then keeps one plan.
_BOUND: Final = f"{_FOUND} where address.email_id = any((select $1::uuid[])::uuid[])"
_ANSWERED: Final = f"""
{_FOUND} where address.email_id = any($1::uuid[]) and marks.deleted_at is null and not coalesce(people.deleted, false)
order by address.email_id desc
"""
