"""Deliveries, for the store and for operators: list, look at, send again, test."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.rules import WEBHOOK_TEST, DeliveryState
from services.conversations.webhooks.outbox import Lane, Line, advance_lines, lock_lines
from services.conversations.webhooks.registry import get_webhook
from shared.database.transactions import transaction_driver
from shared.paging import decode_cursor, encode_cursor
from shared.problems import NotFound

MAX_REPLAYED: Final = 10_000  # deliveries of one request
MAX_ID: Final = 2**63 - 1


class DeliveryRow(NamedTuple):
    """A delivery. `due_at` is None while it waits for another one of its conversation, or once it has ended."""

    id: int
    webhook_id: UUID
    event_id: UUID
    type: str
    at: datetime
    conversation_id: UUID | None
    message_id: UUID | None
    replay_of: int | None
    created_at: datetime
    state: str
    due_at: datetime | None
    attempts: int
    attempted_at: datetime | None
    status: int | None
    error: str | None
    response: str | None
    duration_ms: int | None


async def list_deliveries(
    session: AsyncSession,
    webhook_id: UUID,
    *,
    state: str | None = None,
    conversation_id: UUID | None = None,
    cursor: str | None = None,
    limit: int,
) -> tuple[list[DeliveryRow], str | None]:
    """Return a page of a webhook's deliveries, newest first, and the cursor of the next."""
    await get_webhook(session, webhook_id)
    binding = ("deliveries", str(webhook_id), state, conversation_id and str(conversation_id))
    before = decode_cursor(cursor, binding, _delivery_id)[0] if cursor is not None else MAX_ID
    conditions = ["webhook_id = :webhook_id", "id < :before"]
    if state is not None:
        conditions.append(f"state = '{DeliveryState(state)}'")  # a constant, so that the partial indexes serve
    if conversation_id is not None:
        conditions.append("conversation_id = :conversation_id")
    query = f"select {_COLUMNS} from webhook_deliveries where {' and '.join(conditions)} order by id desc limit :limit"  # noqa: S608 - constants
    values = {"webhook_id": webhook_id, "before": before, "conversation_id": conversation_id, "limit": limit + 1}
    used = {name: value for name, value in values.items() if f":{name}" in query}
    rows = [DeliveryRow(*row) for row in await session.execute(text(query), used)]
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(binding, [rows[limit - 1].id])


async def get_delivery(session: AsyncSession, webhook_id: UUID, delivery_id: int) -> DeliveryRow:
    """Return a delivery. Raises `NotFound`."""
    await get_webhook(session, webhook_id)
    row = (await session.execute(_GET, {"id": delivery_id, "webhook_id": webhook_id})).one_or_none()
    if row is None:
        raise NotFound("There is no such delivery.")
    return DeliveryRow(*row)


async def send_test(session: AsyncSession, webhook_id: UUID) -> DeliveryRow:
    """Send a test event to a webhook of any types; return the delivery."""
    webhook = await get_webhook(session, webhook_id)
    values = {"webhook_id": webhook.id, "event_id": uuid4(), "type": WEBHOOK_TEST, "lane": Lane.TEST}
    return DeliveryRow(*(await session.execute(_TEST, values)).one())


async def replay_delivery(session: AsyncSession, webhook_id: UUID, delivery_id: int) -> DeliveryRow:
    """Send an event again, after what waits for its conversation; return the new delivery.

    One that is pending is due now instead, unless it waits for another one. Raises `NotFound`.
    """
    await lock_lines(session)
    old = await get_delivery(session, webhook_id, delivery_id)
    if old.state == DeliveryState.PENDING:
        await session.execute(_HURRY, {"id": old.id})
        return await get_delivery(session, webhook_id, old.id)
    [(new_id, *line)] = (await session.execute(_REPLAY_ONE, {"id": old.id})).all()
    await _advance(session, [line])
    return await get_delivery(session, webhook_id, new_id)


async def replay_range(
    session: AsyncSession, webhook_id: UUID, start: datetime, end: datetime, *, failed_only: bool
) -> tuple[int, datetime | None]:
    """Send what was first to be delivered within a time again, in its order; return how many, and where to go on.

    Leaves out what is still pending and, with `failed_only`, what was delivered, by a replay also.
    """
    await lock_lines(session)
    await get_webhook(session, webhook_id)
    values: dict[str, Any] = {"webhook_id": webhook_id, "start": start, "end": end, "limit": MAX_REPLAYED}
    rows: Sequence[RowMapping] = (
        (await session.execute(_REPLAY_FAILED if failed_only else _REPLAY_ALL, values)).mappings().all()
    )
    await _advance(session, [(row["webhook_id"], row["lane"], row["conversation_id"]) for row in rows])
    more = len(rows) == MAX_REPLAYED
    return len(rows), max(row["of_at"] for row in rows) if more else None


async def _advance(session: AsyncSession, lines: Sequence[Sequence[Any]]) -> None:
    """Make the first of each line due. A test has no line: its replay is due from the start."""
    driver = await transaction_driver(session)
    await advance_lines(driver, [Line(*line) for line in lines if line[2] is not None])


def _delivery_id(part: int) -> int:
    if not isinstance(part, int) or not 0 <= part <= MAX_ID:
        raise ValueError(part)
    return part


_COLUMNS: Final = ", ".join(DeliveryRow._fields)
_GET = text(f"select {_COLUMNS} from webhook_deliveries where id = :id and webhook_id = :webhook_id")  # noqa: S608 - constants
_TEST = text(f"""
    insert into webhook_deliveries (webhook_id, event_id, type, lane, at, due_at)
    values (:webhook_id, :event_id, :type, :lane, clock_timestamp(), clock_timestamp())
    returning {_COLUMNS}
""")  # noqa: S608 - constants
_HURRY = text("update webhook_deliveries set due_at = clock_timestamp() where id = :id and due_at is not null")
# A replay of a replay names the first one, too.
_REPLAY: Final = f"""
    insert into webhook_deliveries
        (webhook_id, event_id, type, at, lane, conversation_id, message_id, data, replay_of, due_at)
    select webhook_id, event_id, type, at, lane, conversation_id, message_id, data, coalesce(replay_of, id),
        case when lane = {Lane.TEST:d} then clock_timestamp() end
    from webhook_deliveries as old
"""  # noqa: S608 - constants
_REPLAY_ONE = text(f"{_REPLAY} where id = :id returning id, webhook_id, lane, conversation_id")


def _replay_range(condition: str) -> str:
    return f"""
        with chosen as (
            select * from webhook_deliveries as old
            where webhook_id = :webhook_id and created_at >= :start and created_at < :end and replay_of is null
                and lane <> {Lane.TEST:d} and {condition}
            order by id limit :limit
        ),
        added as (
            insert into webhook_deliveries
                (webhook_id, event_id, type, at, lane, conversation_id, message_id, data, replay_of)
            select webhook_id, event_id, type, at, lane, conversation_id, message_id, data, id from chosen order by id
            returning replay_of
        )
        select chosen.webhook_id, chosen.lane, chosen.conversation_id, chosen.created_at as of_at
        from chosen join added on added.replay_of = chosen.id
    """  # noqa: S608 - constants


_ENDED: Final = f"state in ('{DeliveryState.DELIVERED}', '{DeliveryState.FAILED}')"
_REPLAY_ALL = text(_replay_range(_ENDED))
_REPLAY_FAILED = text(
    _replay_range(f"""state = '{DeliveryState.FAILED}' and not exists (
        select from webhook_deliveries as later
        where later.webhook_id = old.webhook_id and later.event_id = old.event_id and later.replay_of = old.id
            and later.state in ('{DeliveryState.PENDING}', '{DeliveryState.DELIVERED}')
    )""")
)
