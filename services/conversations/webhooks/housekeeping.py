"""Purge old deliveries, and those of deleted webhooks; the state of webhooks for operators."""

from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.rules import DeliveryState, WebhookOff
from services.conversations.settings import StoreSettings
from services.conversations.webhooks.log_reader import read_lag
from services.conversations.webhooks.outbox import IS_ENABLED, Line, advance_lines, lock_lines
from services.conversations.webhooks.results import BREAKER_AFTER
from shared.database.transactions import transaction_driver

KEPT_DAYS: Final = 30
COUNT_LIMIT: Final = 10_000


class State(NamedTuple):
    """The state of webhooks: how many there are; how many fail, and are disabled because of that, or are gone.

    `lag` is the age in seconds of the oldest event without its rows, and `waits` how long the delivery that waits
    longest has been due. `pending` and `failed`, in the last day, are counted up to 10,000.
    """

    webhooks: int
    failing: int
    disabled: int
    lag: float
    waits: float
    pending: int
    failed: int


async def read_state(session: AsyncSession) -> State:
    """Return the state of webhooks."""
    webhooks, failing, disabled, waits, pending, failed = (await session.execute(_STATE)).one()
    return State(webhooks, failing, disabled, await read_lag(session), waits, pending, failed)


async def purge_deliveries(session: AsyncSession, _: StoreSettings, *, size: int) -> int:
    """Delete the oldest deliveries beyond their time, and those of deleted webhooks; return how many."""
    driver = await transaction_driver(session)
    if not await driver.fetchval(_ANY_OLD, KEPT_DAYS):
        return 0
    await lock_lines(session)
    rows = await driver.fetch(_PURGE_OLD, size, KEPT_DAYS)
    # A disabled webhook may still have been waiting for what is purged.
    waiting = [Line(*row[:3]) for row in rows if row["state"] == DeliveryState.PENDING and row["conversation_id"]]
    await advance_lines(driver, waiting)
    if len(rows) < size:
        rows += await driver.fetch(_PURGE_OF_DELETED, size - len(rows))
        await driver.execute(_FORGET_DELETED)
    return len(rows)


_ANY_OLD: Final = """
    select (select created_at from webhook_deliveries order by id limit 1)
            < clock_timestamp() - make_interval(days => $1)
        or exists (select from webhooks where deleted_at is not null)
"""
_PURGE_OLD: Final = """
    delete from webhook_deliveries
    where id = any(array(select id from webhook_deliveries order by id limit $1))
        and created_at < clock_timestamp() - make_interval(days => $2)
    returning webhook_id, lane, conversation_id, state
"""
_PURGE_OF_DELETED: Final = """
    delete from webhook_deliveries where id = any(array(
        select delivery.id from webhooks as webhook cross join lateral (
            select id from webhook_deliveries where webhook_id = webhook.id order by id limit $1
        ) as delivery
        where webhook.deleted_at is not null limit $1
    ))
    returning webhook_id, lane, conversation_id, state
"""
_FORGET_DELETED: Final = """
    delete from webhooks as webhook where deleted_at is not null
        and not exists (select from webhook_deliveries where webhook_id = webhook.id)
"""
_STATE = text(f"""
    select count(*) filter (where {IS_ENABLED}), count(*) filter (where {IS_ENABLED} and failures >= {BREAKER_AFTER}),
        count(*) filter (
            where deleted_at is null and disabled_reason in ('{WebhookOff.FAILING}', '{WebhookOff.GONE}')
        ),
        coalesce(max((
            select extract(epoch from clock_timestamp() - min(due_at))::float8 from webhook_deliveries
            where webhook_id = webhook.id and state = '{DeliveryState.PENDING}' and due_at <= now()
        )) filter (where {IS_ENABLED} and (paused_until is null or paused_until < clock_timestamp())), 0),
        (
            select count(*) from (
                select from webhook_deliveries where state = '{DeliveryState.PENDING}' limit {COUNT_LIMIT}
            ) as pending
        ),
        (
            select count(*) from (
                select from webhook_deliveries
                where state = '{DeliveryState.FAILED}' and attempted_at > now() - interval '1 day'
                limit {COUNT_LIMIT}
            ) as failed
        )
    from webhooks as webhook
""")  # noqa: S608 - built from constants
