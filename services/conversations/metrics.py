"""The state of the event log, read from its tables for Prometheus."""

from prometheus_client import Gauge
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.emails import progress
from services.conversations.event_log.sequencer import read_state
from services.conversations.messaging import erasure_batches
from services.conversations.models import FeedReader
from services.conversations.reports import facts
from services.conversations.search import indexer
from services.conversations.settings import StoreSettings
from services.conversations.webhooks import housekeeping
from shared.database.metrics import measure_database
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.reading import lag_after
from shared.event_log.retention import oldest_age

HEAD = Gauge("chats_log_head", "The last position in the log")
UNNUMBERED = Gauge("chats_log_unnumbered", "Committed events without a position")
LAG = Gauge("chats_relay_lag_seconds", "Age of the oldest event without a position")
READER_LAG = Gauge("chats_log_reader_lag_seconds", "Age of the oldest event that a reader of the log has not handled")
OLDEST = Gauge("chats_log_oldest_seconds", "Age of the oldest event that is kept")
RETENTION = Gauge(
    "chats_log_retention_seconds", "Age after which events are purged, once every reader has handled them"
)
SEARCH_LAG = Gauge("chats_search_lag_seconds", "Age of the oldest message that is not indexed for search")
SEARCH_PARKED = Gauge("chats_search_parked", "Conversations that could not be indexed for search")
REPORTS_LAG = Gauge("chats_reports_lag_seconds", "Age of the oldest event that is not counted for reports")
EMAIL_STATUS_LAG = Gauge(
    "chats_email_status_lag_seconds", "Time since the notifications service's log was last read to its end"
)
WEBHOOKS_LAG = Gauge("chats_webhooks_lag_seconds", "Age of the oldest event that webhooks have no rows for")
WEBHOOKS_WAIT = Gauge("chats_webhooks_oldest_due_seconds", "Time that the oldest delivery of a webhook has been due")
WEBHOOKS_PENDING = Gauge("chats_webhooks_pending", "Deliveries of webhooks that are pending, up to 10,000")
WEBHOOKS_FAILED = Gauge("chats_webhooks_failed", "Deliveries of webhooks that failed in the last day, up to 10,000")
WEBHOOKS_FAILING = Gauge("chats_webhooks_failing", "Webhooks whose attempts fail, and pause")
WEBHOOKS_DISABLED = Gauge(
    "chats_webhooks_disabled", "Webhooks that are disabled because their endpoint fails or is gone"
)
SIZE = Gauge("chats_log_bytes", "Size of the log on disk with its indexes")

DAY = 24 * 3600  # seconds


async def collect(sessions: SessionFactory, settings: StoreSettings) -> None:
    """Set the gauges."""
    async with transaction(sessions) as session:
        state = await read_state(session)
        HEAD.set(state.head)
        UNNUMBERED.set(state.unnumbered)
        LAG.set(state.lag)
        READER_LAG.set(await _reader_lag(session))
        OLDEST.set(await oldest_age(session))
        RETENTION.set(settings.retention_days * DAY)
        SIZE.set((await session.execute(_SIZE)).scalar_one())
        search = await indexer.read_state(session)
        SEARCH_LAG.set(search.lag)
        SEARCH_PARKED.set(search.parked)
        REPORTS_LAG.set((await facts.read_state(session)).lag)
        EMAIL_STATUS_LAG.set((await progress.read_state(session)).lag)
        webhooks = await housekeeping.read_state(session)
        WEBHOOKS_LAG.set(webhooks.lag)
        WEBHOOKS_WAIT.set(webhooks.waits)
        WEBHOOKS_PENDING.set(webhooks.pending)
        WEBHOOKS_FAILED.set(webhooks.failed)
        WEBHOOKS_FAILING.set(webhooks.failing)
        WEBHOOKS_DISABLED.set(webhooks.disabled)
        erasure = await erasure_batches.read_state(session)
        await measure_database(session, "conversations", erasure.stalled_seconds)


async def _reader_lag(session: AsyncSession) -> float:
    """Return the age of the first event after the last one that every reader has acknowledged.

    The log knows this even while its reader is stopped or cannot reach it.
    """
    acknowledged = await session.scalar(select(func.min(FeedReader.position)))
    return await lag_after(session, acknowledged or 0)


_SIZE = text("select pg_total_relation_size('events')")
