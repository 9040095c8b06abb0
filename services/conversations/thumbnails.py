"""The process that makes thumbnails. It decodes what people sent, so it does nothing else.

Copies share the work: a claim expires, so a file whose process ended is taken by another one.
"""

import asyncio
from pathlib import Path

from prometheus_client import Counter

from services.conversations.attachments.file_store import FileStore, open_files
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.thumbnails import make_next_thumbnail
from services.conversations.settings import FileSettings
from shared.database.engine import close_engine, create_engine
from shared.database.readiness import database_fault, newest_version, wait_for_database
from shared.database.transactions import SessionFactory, create_sessions
from shared.process.running import operations_routes, operations_server
from shared.process.stopping import log_errors, run_until_stopped

LOOK_EVERY = 0.5  # seconds, while no file waits

THUMBNAILS = Counter("chats_thumbnails_total", "Files that this process has handled, by outcome", ["outcome"])


async def run_thumbnails(settings: FileSettings, host: str, port: int, stop: asyncio.Event) -> None:
    """Make thumbnails until `stop`."""
    engine = create_engine(settings.conversations_database_url, application="chats-thumbnails", pool_size=2)
    sessions, version = create_sessions(engine), newest_version(Path(__file__).parent)
    async with operations_server(operations_routes(lambda: database_fault(engine, version)), host, port):
        await run_until_stopped(stop, wait_for_database(engine, version))
        making = asyncio.create_task(_make_all(sessions, open_files(settings)))
        await stop.wait()
        making.cancel()  # what it has claimed is free again when the claim ends
        await asyncio.gather(making, return_exceptions=True)
    await close_engine(engine)


async def _make_all(sessions: SessionFactory, files: FileStore) -> None:
    worker = PictureProcess()
    try:
        while True:
            outcome = None
            with log_errors("thumbnail failed"):
                outcome = await make_next_thumbnail(sessions, files, worker)
            if outcome is not None:
                THUMBNAILS.labels(outcome).inc()
            else:
                await asyncio.sleep(LOOK_EVERY)
    finally:
        await worker.close()
