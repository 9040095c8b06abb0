"""Rows for what webhooks are to be told, written in the transaction that moves the cursor of their reader.

Deliveries of a conversation form a line for each webhook and lane, in the order of their ids. Only the first pending
one of a line has a `due_at`. All transactions that add or end deliveries lock the same row first (`lock_lines`), so
none of them misses what another one adds or ends at the same moment.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.rules import DeliveryState, WebhookType
from shared.database.engine import Driver
from shared.database.transactions import transaction_driver


class Lane(IntEnum):
    """What is delivered in order: a conversation's own events, what notifications and emails it led to, tests."""

    CONVERSATION = 0
    OTHER = 1
    TEST = 2


class Happened(NamedTuple):
    """An event that webhooks may be told of. `position` is its place in the log, None if it is of the other service."""

    event_id: UUID
    type: WebhookType
    at: datetime
    lane: Lane
    conversation_id: UUID
    message_id: UUID | None = None
    data: dict[str, Any] | None = None
    position: int | None = None


class Line(NamedTuple):
    """Deliveries that follow each other."""

    webhook_id: UUID
    lane: int
    conversation_id: UUID


async def lock_lines(session: AsyncSession) -> None:
    """Lock all lines until the end of the transaction. Keep it short."""
    await (await transaction_driver(session)).execute(_LOCK)


async def add_deliveries(session: AsyncSession, events: Sequence[Happened]) -> None:
    """Add a delivery for each event and each webhook that wants it, once. Call `lock_lines` before."""
    if not events:
        return
    columns = zip(*(event._replace(data=event.data and json.dumps(event.data)) for event in events), strict=True)  # type: ignore[arg-type] # as text
    await (await transaction_driver(session)).execute(_ADD, *map(list, columns))


async def have_webhooks(session: AsyncSession) -> bool:
    """Return whether any webhook is enabled: without one nothing is written."""
    return bool(await (await transaction_driver(session)).fetchval(_ANY))


async def advance_lines(driver: Driver, lines: Iterable[Line]) -> None:
    """Make the first pending delivery of each line due, unless it is. Call `lock_lines` before."""
    if columns := [list(column) for column in zip(*set(lines), strict=True)]:
        await driver.execute(_ADVANCE, *columns)


IS_ENABLED: Final = "disabled_at is null and deleted_at is null"
_LOCK: Final = "select from webhook_progress for update"
_ANY: Final = f"select exists (select from webhooks where {IS_ENABLED})"  # noqa: S608 - a constant
# An event that a webhook already has is not added again. Only the first new delivery of a line may be due, and only if
# no older one of the line is pending.
_ADD: Final = f"""
    with happened as (
        select * from unnest(
            $1::uuid[], $2::text[], $3::timestamptz[], $4::smallint[], $5::uuid[], $6::uuid[], $7::text[], $8::bigint[]
        ) with ordinality as event (event_id, type, at, lane, conversation_id, message_id, data, position, turn)
    ),
    wanted as (
        select event.*, webhook.id as webhook_id,
            row_number() over (partition by webhook.id, lane, conversation_id order by turn) = 1 as is_first
        from happened as event join (select * from webhooks where {IS_ENABLED}) as webhook
            on event.type = any(webhook.types)
            and case when position is null then at >= webhook.since else position > webhook.after_position end
        where not exists (
            select from webhook_deliveries as earlier
            where earlier.event_id = event.event_id and earlier.webhook_id = webhook.id and earlier.replay_of is null
        )
    )
    insert into webhook_deliveries (webhook_id, event_id, type, at, lane, conversation_id, message_id, data, due_at)
    select webhook_id, event_id, type, at, lane, conversation_id, message_id, data::jsonb, case
        when is_first and not exists (
            select from webhook_deliveries as before
            where before.webhook_id = wanted.webhook_id and before.lane = wanted.lane
                and before.conversation_id = wanted.conversation_id and before.state = '{DeliveryState.PENDING}'
        ) then clock_timestamp()
    end
    from wanted order by turn
"""  # noqa: S608 - built from constants
_ADVANCE: Final = f"""
    update webhook_deliveries set due_at = clock_timestamp()
    where due_at is null and id = any(array(
        select (
            select id from webhook_deliveries as delivery
            where delivery.webhook_id = line.webhook_id and delivery.lane = line.lane
                and delivery.conversation_id = line.conversation_id and delivery.state = '{DeliveryState.PENDING}'
            order by id limit 1
        )
        from unnest($1::uuid[], $2::smallint[], $3::uuid[]) as line (webhook_id, lane, conversation_id)
    ))
"""  # noqa: S608 - built from constants
