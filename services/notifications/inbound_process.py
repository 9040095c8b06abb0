"""The process that takes emails in, and posts them as messages. Copies share the work."""

import asyncio
import contextlib
import ctypes
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import structlog

from services.notifications.inbound.calls import CALL_SECONDS
from services.notifications.inbound.imap_mailbox import ImapMailbox
from services.notifications.inbound.metrics import collect
from services.notifications.inbound.posting import BATCH, post_due
from services.notifications.inbound.reception import InboundAddresses, Reception
from services.notifications.inbound.reply_content import Store
from services.notifications.inbound.retention import purge_originals
from services.notifications.inbound.server import GRACE, InboundServer, Receiver
from services.notifications.mail.addresses import sender_address, sender_name
from services.notifications.mail.imap_url import ImapServer
from services.notifications.mail.listen_url import parse_listen_url
from services.notifications.settings import NO_LISTENER, InboundSettings
from shared.database.engine import close_engine, create_engine
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import (
    ConnectionProvider,
    SessionFactory,
    connection_provider,
    create_sessions,
    transaction,
)
from shared.process.running import operations_routes, operations_server
from shared.process.stopping import pause, run_until_stopped

POLL = 0.5  # seconds between looks for emails that another process took in, or that are due again
LINGER = 0.05  # seconds between two looks: what arrives meanwhile shares a call
PURGE_EVERY = 60.0
PURGE_BATCH = 100  # originals erased in one transaction
LARGE_BLOCK = 256 * 1024  # bytes of memory that are given back as soon as they are free
_M_MMAP_THRESHOLD = -3  # of malloc.h

log = structlog.get_logger()


async def run_inbound(settings: InboundSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Take emails in and post them until `stop` is set."""
    _give_back_large_blocks()
    engine = create_engine(settings.notifications_database_url, application="chats-inbound", pool_size=10)
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    acquire, arrived = connection_provider(engine), asyncio.Event()
    routes = operations_routes(lambda: database_fault(engine, version), lambda: collect(sessions))
    addresses = InboundAddresses.of(settings, settings.public_url)
    reception = Reception(acquire, partial(transaction, sessions), addresses, arrived.set)
    hostname = urlsplit(settings.public_url).hostname or "localhost"
    listens = settings.inbound_domain is not None and settings.inbound_listen != NO_LISTENER
    server = (
        InboundServer(Receiver(reception), parse_listen_url(settings.inbound_listen), hostname) if listens else None
    )
    mailbox = settings.imap_server
    async with operations_server(routes, host, port), _conversations_client(settings) as client:
        await run_until_stopped(stop, wait_for_database(engine, version))
        if settings.inbound_domain is None:
            log.warning("no email is taken in: CHATS_INBOUND_DOMAIN is not set")
        elif server is not None and not stop.is_set():
            await server.start()
        posting = asyncio.create_task(_post_for_ever(acquire, client, _store_of(settings), arrived))
        purging = asyncio.create_task(_purge_for_ever(sessions, settings, stop))
        reading = asyncio.create_task(_read_mailbox(reception, mailbox, settings.inbound_imap_done, stop))
        await stop.wait()
        if server is not None:
            await server.stop()
        await asyncio.wait({reading}, timeout=GRACE)
        reading.cancel()  # an email that is being taken is found again
        posting.cancel()  # an email that is being posted is posted again by its lease's end: the call is idempotent
        await asyncio.gather(posting, purging, reading, return_exceptions=True)
    await close_engine(engine)


def _give_back_large_blocks() -> None:
    """Have glibc give memory of large emails back at once.

    By itself it begins to keep freed blocks of up to 32 MiB, and the next email often does not fit into what it kept.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


def _conversations_client(settings: InboundSettings) -> httpx2.AsyncClient:
    """Create the HTTP client of the conversations service."""
    secret = settings.inbound_secret.get_secret_value() if settings.inbound_secret else ""
    return httpx2.AsyncClient(
        base_url=settings.conversations_url,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=CALL_SECONDS,
        trust_env=False,  # an internal service, not behind a proxy
    )


def _store_of(settings: InboundSettings) -> Store:
    """Return the store as its emails show it."""
    senders = [sender for sender in (settings.email_from, settings.email_reply_to) if sender]
    names = {settings.store_name, *(name for sender in senders if (name := sender_name(sender)))}
    inbound = [settings.inbound_address] if settings.inbound_address else []
    addresses = [*(sender_address(sender) for sender in senders), *inbound]
    return Store(sorted(names), [*addresses, f"@{settings.inbound_domain}"], settings.public_url)


async def _post_for_ever(
    acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store, arrived: asyncio.Event
) -> None:
    while True:
        posted = 0
        arrived.clear()
        try:
            posted = await post_due(acquire, client, store)
        except Exception as error:
            log.warning("posting failed, retrying", error=type(error).__name__)
            log.debug("posting failed", exc_info=True)
            await asyncio.sleep(1)
        if not posted:
            await pause(arrived, POLL)
        if posted < BATCH:
            await asyncio.sleep(LINGER)


async def _read_mailbox(reception: Reception, server: ImapServer | None, done: str, stop: asyncio.Event) -> None:
    if server is not None:
        await ImapMailbox(reception, server, done).run(stop)


async def _purge_for_ever(sessions: SessionFactory, settings: InboundSettings, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            while await purge_originals(sessions, settings.inbound_retention_days, size=PURGE_BATCH) == PURGE_BATCH:
                pass
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("purge failed, retrying", error=type(error).__name__)
        await pause(stop, PURGE_EVERY)
