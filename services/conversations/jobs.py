"""The jobs of the conversations service: work that no request waits for.

They index conversations for search, count them for reports, erase deleted conversations and users, move those of merged
users, scan and delete files, purge old rows, resolve conversations whose customer stays quiet, delete those that have
been closed for long, read what becomes of emails, and send webhooks.
Copies share the work: each batch is a transaction that locks what it works on, and skips what another copy has locked.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx2
import structlog
from prometheus_client import Counter
from pydantic import ValidationError

from services.conversations.attachments.deletion import delete_files
from services.conversations.attachments.file_store import FileStore, open_files
from services.conversations.attachments.scanning import scan_next_file
from services.conversations.attachments.uploads import purge_unsent
from services.conversations.audit.retention import keep_partitions
from services.conversations.emails.follower import Round, follow_round
from services.conversations.event_log.retention import purge_events, purge_keys
from services.conversations.identity.sessions import purge_sessions
from services.conversations.messaging.erasure_batches import erase_round, purge_erasures
from services.conversations.messaging.expiry import count_due, expire_closed, is_erasing_many
from services.conversations.messaging.merged_ids import merge_round
from services.conversations.messaging.quiet import resolve_quiet
from services.conversations.realtime.presence import purge_presence
from services.conversations.reports.facts import count_round
from services.conversations.search.indexer import index_round
from services.conversations.settings import JobsSettings
from services.conversations.webhooks.dispatcher import Dispatcher
from services.conversations.webhooks.housekeeping import purge_deliveries
from services.conversations.webhooks.sending import Sender
from shared.database.engine import close_engine, create_engine
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import SessionFactory, connection_provider, create_sessions, transaction
from shared.event_log.feed_client import create_feed
from shared.process.running import operations_routes, operations_server
from shared.process.stopping import log_errors, pause, run_until_stopped

INDEX_EVERY = 1.0  # seconds until the next look at the log, if there was nothing to index
COUNT_EVERY = 2.0  # seconds until the next look at the log, if there was nothing to count
ERASE_EVERY = 1.0  # seconds until the next erasure round, if the last one erased nothing
MERGE_EVERY = 5.0  # seconds until merged users are looked for again
PURGE_EVERY = 60  # seconds between purges of rows past their retention
PURGE_BATCH = 1000  # rows deleted in one transaction
DELETE_FILES_EVERY = 1.0  # seconds until files are looked for again, if there were none to delete
SCAN_EVERY = 0.5  # seconds until files are looked for again, if none waited for a scan
UNSCANNED_EVERY = 30.0  # the same without a scanner: files that waited for the one that there was
FILE_BATCH = 50  # files deleted at once
FOLLOW_EVERY = 1.0  # seconds until the log of emails is read again, doubled after each failure …
MAX_FOLLOW_PAUSE = 30.0  # … up to this
RESOLVE_EVERY = 60  # seconds until the next look for quiet conversations
RESOLVE_BATCH = 100  # conversations resolved in one transaction
EXPIRE_EVERY = 60  # seconds until closed conversations are looked for again, if none were due
EXPIRE_BATCH = 20  # of them deleted in one transaction, few enough that it erases most of them at once …
EXPIRE_PAUSE = 0.5  # … and seconds until the next one, so that other work goes on while a large store is cleared
REPORT_EVERY = 60.0  # seconds between two lines of the log about that

PURGED = Counter("chats_log_purged_total", "Rows purged: events, keys, sessions, viewers, erasures, deliveries")
INDEXED = Counter("chats_search_indexed_total", "Conversations whose search documents this process has written")
COUNTED = Counter("chats_reports_counted_total", "Conversations that this process has counted for reports")
ERASED = Counter("chats_erased_total", "Rows of deleted conversations and users that this process has erased")
MERGES_FAILED = Counter("chats_merges_failed_total", "Attempts to move what is left of a merged user that failed")
RESOLVED = Counter("chats_auto_resolved_total", "Quiet conversations that this process has resolved")
EXPIRED = Counter("chats_closed_expired_total", "Closed conversations that this process has deleted by retention")
SCANS = Counter("chats_file_scans_total", "Files that this process has scanned, by outcome", ["outcome"])
FILES_DELETED = Counter("chats_files_deleted_total", "Files that this process has deleted from the file store")

EMAIL_STATUSES = Counter("chats_email_statuses_total", "Emails whose status this process has written into timelines")

log = structlog.get_logger()


async def run_jobs(settings: JobsSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Run all jobs until `stop`, each in a loop of its own."""
    engine = create_engine(settings.conversations_database_url, application="chats-jobs", pool_size=6)
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    async with operations_server(operations_routes(lambda: database_fault(engine, version)), host, port):
        await run_until_stopped(stop, wait_for_database(engine, version))
        files = open_files(settings)
        async with asyncio.TaskGroup() as group:
            index, count = partial(index_round, sessions), partial(count_round, sessions)
            erase, delete = partial(erase_round, sessions), partial(delete_files, sessions, files, size=FILE_BATCH)
            group.create_task(_repeat(index, INDEXED, stop, every=INDEX_EVERY, failure="indexing failed"))
            group.create_task(_repeat(count, COUNTED, stop, every=COUNT_EVERY, failure="counting for reports failed"))
            group.create_task(_repeat(erase, ERASED, stop, every=ERASE_EVERY, failure="erasure failed"))
            group.create_task(_merge(sessions, stop))
            group.create_task(_purge(sessions, settings, stop))
            if settings.auto_resolve_days:
                group.create_task(_resolve_quiet(sessions, settings.auto_resolve_days, stop))
            if settings.closed_retention_days is not None:
                group.create_task(_expire_closed(sessions, settings.closed_retention_days, stop))
            sender = Sender(settings.webhook_private_hosts)
            webhooks = Dispatcher(sessions, connection_provider(engine), sender, settings.webhook_retry_seconds)
            group.create_task(webhooks.run(stop))
            group.create_task(
                _repeat(delete, FILES_DELETED, stop, every=DELETE_FILES_EVERY, failure="deleting files failed")
            )
            group.create_task(_scan_files(sessions, files, settings.scan_url, stop))
            if settings.feed_secret:
                feed = create_feed(settings.notifications_url, settings.feed_secret.get_secret_value())
                group.create_task(_follow_emails(sessions, feed, stop))
            else:
                log.warning("what becomes of emails is not read: set CHATS_FEED_SECRET")
    await sender.close()
    await close_engine(engine)


async def _repeat(
    work: Callable[[], Awaitable[int]], counter: Counter, stop: asyncio.Event, *, every: float, failure: str
) -> None:
    """Call `work` again and again: at once if the last call has found something to do, else after `every` seconds."""
    while not stop.is_set():
        done = 0
        with log_errors(failure):
            done = await work()
        counter.inc(done)
        if not done:
            await pause(stop, every)


async def _merge(sessions: SessionFactory, stop: asyncio.Event) -> None:
    """Move the conversations of merged users whose request did not complete it."""
    while not stop.is_set():
        with log_errors("moving conversations of merged users failed"):
            MERGES_FAILED.inc(await merge_round(sessions))
        await pause(stop, MERGE_EVERY)


async def _scan_files(sessions: SessionFactory, files: FileStore, url: str | None, stop: asyncio.Event) -> None:
    """Scan new files, one at a time."""
    while not stop.is_set():
        outcome = None
        with log_errors("scan failed"):
            outcome = await scan_next_file(sessions, files, url)
        if outcome is not None:
            SCANS.labels(outcome).inc()
        else:
            await pause(stop, SCAN_EVERY if url else UNSCANNED_EVERY)


async def _resolve_quiet(sessions: SessionFactory, days: float, stop: asyncio.Event) -> None:
    """Resolve conversations that have waited for their customer for `days`, in small transactions."""
    while not stop.is_set():
        resolved = 0
        with log_errors("resolving quiet conversations failed"):
            async with transaction(sessions) as session:
                resolved = await resolve_quiet(session, days, size=RESOLVE_BATCH)
        RESOLVED.inc(resolved)
        if resolved < RESOLVE_BATCH:
            await pause(stop, RESOLVE_EVERY)


async def _expire_closed(sessions: SessionFactory, days: float, stop: asyncio.Event) -> None:
    """Delete conversations that have been closed for `days`, at a bounded rate, and log the progress."""
    unreported, report_at = 0, 0.0
    while not stop.is_set():
        deleted, is_erasing = 0, False
        with log_errors("deleting closed conversations failed"):
            async with transaction(sessions) as session:
                is_erasing = await is_erasing_many(session)
                expired = 0 if is_erasing else await expire_closed(session, days, size=EXPIRE_BATCH)
            deleted = expired
            unreported += deleted
            if unreported and (time.monotonic() >= report_at or not (deleted or is_erasing)):
                async with transaction(sessions) as session:
                    log.info("closed conversations deleted", count=unreported, due=await count_due(session, days))
                unreported, report_at = 0, time.monotonic() + REPORT_EVERY
        EXPIRED.inc(deleted)
        await pause(stop, EXPIRE_PAUSE if deleted or is_erasing else EXPIRE_EVERY)


async def _follow_emails(sessions: SessionFactory, feed: httpx2.AsyncClient, stop: asyncio.Event) -> None:
    """Read what becomes of emails from the notifications service, which may be away for as long as it likes."""
    failures = 0
    async with feed:
        while not stop.is_set():
            done = Round(0, more=False)
            try:
                done = await follow_round(sessions, feed)
                failures = 0
            except (httpx2.HTTPError, ValidationError) as error:
                failures += 1
                status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None
                # Without the error's text, which quotes the content.
                log.warning("log of emails unavailable, retrying", error=type(error).__name__, status=status)
            except Exception as error:  # it must not end the other jobs
                failures += 1
                log.warning("reading the status of emails failed, retrying", error=type(error).__name__)
                log.debug("reading the status of emails failed", exc_info=True)
            EMAIL_STATUSES.inc(done.changed)
            if not done.more:
                await pause(stop, min(FOLLOW_EVERY * 2 ** min(failures, 10), MAX_FOLLOW_PAUSE))


async def _purge(sessions: SessionFactory, settings: JobsSettings, stop: asyncio.Event) -> None:
    """Purge rows past their retention, in small transactions so that other work does not wait for them."""
    while not stop.is_set():
        for purge in (
            purge_events,
            purge_keys,
            purge_sessions,
            purge_presence,
            purge_erasures,
            purge_unsent,
            purge_deliveries,
        ):
            # Each alone: the others must not wait for one that fails.
            with log_errors(f"purge failed ({purge.__name__})"):
                deleted = PURGE_BATCH
                while deleted == PURGE_BATCH and not stop.is_set():
                    async with transaction(sessions) as session:
                        deleted = await purge(session, settings, size=PURGE_BATCH)
                    PURGED.inc(deleted)
        with log_errors("purge failed (keep_partitions)"):
            async with transaction(sessions) as session:
                if months := await keep_partitions(session, settings.audit_days):
                    log.info("months of the audit dropped", count=months)
        await pause(stop, PURGE_EVERY)
