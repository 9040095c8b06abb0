"""The metrics of the event log, also while its reader is stopped."""

import pytest
from prometheus_client import generate_latest
from sqlalchemy import text

from services.conversations import metrics
from services.conversations.settings import StoreSettings
from shared.database.transactions import transaction
from tests.service.helpers.callers import Caller
from tests.service.helpers.sweeping import Sweeper, answer

SETTINGS = StoreSettings(conversations_database_url="postgresql://unused", retention_days=2)


async def collected(sweeping: Sweeper) -> dict[str, float]:
    await metrics.collect(sweeping.conversations, SETTINGS)
    lines = [line for line in generate_latest().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_an_event_counts_as_late_until_its_reader_acknowledges_it(
    sweeping: Sweeper, anna: Caller, sam: Caller
) -> None:
    await answer(anna, sam, times=3)
    await sweeping.number()
    await sweeping.feed.get("/internal/events", params={"after": 1, "reader": "notifications"})
    async with transaction(sweeping.conversations) as session:
        await session.execute(text("update events set numbered_at = numbered_at - interval '90 s' where position > 1"))
    assert 90 <= (await collected(sweeping))["chats_log_reader_lag_seconds"] < 100
    await sweeping.catch_up_fully()
    await sweeping.catch_up()  # acknowledges what it has read before
    shown = await collected(sweeping)
    assert shown["chats_log_reader_lag_seconds"] == 0
    assert shown["chats_log_oldest_seconds"] > 0


async def test_sizes_retention_and_stalled_erasures_are_exported(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    await answer(anna, sam)
    async with transaction(sweeping.conversations) as session:
        await session.execute(
            text("insert into erasures (user_id, advanced_at) values ('anna', clock_timestamp() - interval '90 s')")
        )
    shown = await collected(sweeping)
    assert 0 < shown["chats_log_bytes"] < shown['chats_database_bytes{database="conversations"}']
    assert shown["chats_log_retention_seconds"] == 2 * 86400
    assert shown['chats_erasure_stalled_seconds{database="conversations"}'] == pytest.approx(90, abs=10)
