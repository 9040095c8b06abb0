"""What operators see and do from the command line, directly on the services' databases."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations.event_log.reader import read_newest
from services.conversations.settings import StoreSettings as ConversationsSettings
from services.notifications.event_consumer import parked, rebuild
from services.notifications.event_consumer.parked import list_parked
from services.notifications.settings import EmailSettings
from services.notifications.settings import StoreSettings as NotificationsSettings
from shared.database.engine import create_engine
from shared.database.errors import DATABASE_ERRORS, describe
from shared.database.transactions import SessionFactory, create_sessions, transaction
from shared.event_log.sequencer import rotate_epoch
from shared.problems import Problem
from shared.settings import SettingsError, read_settings
from shared.text import printable

T = TypeVar("T")


def run_once(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in one transaction. Known errors become `SettingsError`, one line for the operator."""

    async def once(sessions: SessionFactory) -> T:
        async with transaction(sessions) as session:
            return await work(session)

    return run_on(url, once)


def run_on(url: str, work: Callable[[SessionFactory], Awaitable[T]]) -> T:
    """Do some work that opens its own transactions. Known errors become `SettingsError`."""

    async def main() -> T:
        engine = create_engine(url, application="chats-cli", pool_size=1)
        try:
            return await work(create_sessions(engine))
        finally:
            await engine.dispose()

    try:
        return asyncio.run(main())
    except Problem as problem:
        cause = problem.__cause__  # says more to an operator than to a caller of the API
        raise SettingsError(describe(cause) if isinstance(cause, DATABASE_ERRORS) else problem.detail) from None
    except DATABASE_ERRORS as error:
        raise SettingsError(describe(error)) from None


def on_conversations(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in the conversations database."""
    return run_once(read_settings(ConversationsSettings).conversations_database_url, work)


def on_notifications(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in the notifications database."""
    return run_once(read_settings(NotificationsSettings).notifications_database_url, work)


def parse_id(value: str) -> UUID:
    """Read an id from the command line."""
    try:
        return UUID(value)
    except ValueError:
        raise SettingsError(f"{value!r} is not a valid id") from None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print a table with aligned columns; below the head of one without rows, what `empty` says."""
    widths = [max(len(row[column]) for row in (columns, *rows)) for column in range(len(columns))]
    for row in (columns, *rows):
        typer.echo("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        typer.echo(empty)


def print_events(limit: int) -> None:
    """Print the newest events, without any text that people wrote."""
    for row in reversed(on_conversations(lambda session: read_newest(session, limit))):
        typer.echo(
            f"{row.position if row.position is not None else '-':>10}  {row.occurred_at:%Y-%m-%d %H:%M:%S.%f}  "
            f"{row.type:<22} {row.id}  conversation {row.conversation_id or '-'}"
        )


def print_parked() -> None:
    """Print the parked events."""
    parked = on_notifications(list_parked)
    for entry in parked:
        line = f"{entry.event_id}  {entry.parked_at:%Y-%m-%d %H:%M:%S}  {entry.type:<32} {entry.reason}"
        typer.echo(printable(line))
    if not parked:
        typer.echo("No parked events.")


def retry_parked(event_id: UUID) -> None:
    """Handle a parked event now."""
    settings = read_settings(EmailSettings)
    run_once(settings.notifications_database_url, lambda session: parked.retry_parked(session, event_id, settings))


async def _note_restored_notifications(session: AsyncSession) -> None:
    await rebuild.hold_emails(session)
    await rotate_epoch(session)


def declare_restored(service: str) -> str:
    """Mark a service's database as restored from a backup. Return what happens next, for the operator."""
    if service == "conversations":
        on_conversations(rotate_epoch)
        return "The event log starts a new epoch. Its readers synchronize with the current state."
    if service == "notifications":
        on_notifications(_note_restored_notifications)
        return (
            "Emails wait until the log has been read again. Those that may have been sent become failed (`restored`)."
        )
    raise SettingsError("the service must be conversations or notifications")
