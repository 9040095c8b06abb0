"""`chats people`: what operators do with a person's data, directly on the conversations database."""

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import mkstemp
from typing import BinaryIO

import typer

from deploy.commands.operations import run_on, run_once
from services.conversations.attachments.file_store import FileStoreError, open_files
from services.conversations.audit.recording import Act, record
from services.conversations.identity.merging import merge_users
from services.conversations.messaging.merged_ids import finish_merges
from services.conversations.privacy.erasure import HeldCounts, erase_user, preview_erasure
from services.conversations.privacy.export import Sources, prepare_export
from services.conversations.privacy.queries import Interrupted
from services.conversations.rules import ActorRole, AuditAction
from services.conversations.settings import ExportSettings, StoreSettings
from shared.database.transactions import SessionFactory, connection_provider, transaction
from shared.event_log.feed_client import create_feed
from shared.settings import SettingsError, read_settings
from shared.text import printable

OPERATOR = "chats people"
"""The actor in the audit: no id of the store's has a space."""


def export_person(user_id: str, output: Path | None, *, internal: bool) -> None:
    """Write everything of a person into an archive. A file with its final name is always complete."""
    settings = read_settings(ExportSettings)
    if settings.feed_secret is None:
        raise SettingsError("set CHATS_FEED_SECRET: without the notifications service's part an export is incomplete")
    secret = settings.feed_secret.get_secret_value()

    async def work(sessions: SessionFactory) -> None:
        async with create_feed(settings.notifications_url, secret) as notifications:
            await finish_merges(sessions, user_id)
            acquire = connection_provider(sessions.kw["bind"])
            sources = Sources(acquire, open_files(settings), notifications, settings)
            export = await prepare_export(sources, user_id, internal=internal)
            async with transaction(sessions) as session:
                data = {"internal": internal}
                act = Act(AuditAction.USER_EXPORTED, OPERATOR, target_id=user_id, data=data, role=ActorRole.STORE)
                await record(session, act)
            path = output or Path(export.file_name)
            part, opened = _create_beside(path)
            try:
                with opened as file:

                    async def write(chunk: bytes) -> None:
                        file.write(chunk)

                    await export.write(write)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            typer.echo(printable(f"{path}: {path.stat().st_size:,} bytes."))

    try:
        run_on(settings.conversations_database_url, work)
    except (FileStoreError, Interrupted, OSError) as error:
        raise SettingsError(printable(f"nothing was exported: {error}. Try again.")) from None


def merge(old_id: str, into_id: str) -> None:
    """Make a customer's id an alias of another customer's."""
    url = read_settings(StoreSettings).conversations_database_url
    person_id = run_on(url, lambda sessions: merge_users(sessions, old_id, into_id, actor_id=OPERATOR))
    typer.echo(printable(f"{old_id} is {person_id} now."))


def erase_person(user_id: str, *, content: bool, dry_run: bool, confirmed: bool) -> None:
    """Print what a deletion erases and keeps; then, if it is confirmed, erase it and print the receipt."""
    url = read_settings(StoreSettings).conversations_database_url
    run_on(url, lambda sessions: finish_merges(sessions, user_id))
    preview = run_once(url, lambda session: preview_erasure(session, user_id, content=content))
    typer.echo(f"Erases: {_described(preview.erased)}\nKeeps:  {_described(preview.kept)}")
    if dry_run:
        return
    if not confirmed:
        typer.confirm(printable(f"Erase {user_id} for good?"), abort=True)
    receipt = run_on(url, lambda sessions: erase_user(sessions, user_id, content=content, asked_by=OPERATOR))
    if receipt is not None:
        state = "Erased" if receipt.finished_at else "Hidden; `chats jobs` erases the rest"
        typer.echo(f"{state}. Receipt: {receipt.id}")


def _described(counts: HeldCounts) -> str:
    parts = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in asdict(counts).items() if count]
    return ", ".join(parts) or "nothing"


def _create_beside(path: Path) -> tuple[Path, BinaryIO]:
    """Create a file in the same folder, which only its owner can read."""
    descriptor, name = mkstemp(".part", f"{path.name[:100]}.", path.parent)
    return Path(name), os.fdopen(descriptor, "wb")
