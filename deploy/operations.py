"""What operators see and do from the command line, straight on the services' databases."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from uuid import UUID

import typer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from services.conversations import log as event_log
from services.conversations.settings import StoreSettings as ConversationsSettings
from services.notifications import inbox, measures, queries
from services.notifications.rules import EmailState
from services.notifications.settings import MailSettings
from services.notifications.settings import StoreSettings as NotificationsSettings
from shared.database import create_engine, create_sessions, describe, transaction
from shared.problems import Problem
from shared.settings import SettingsError, read_settings

T = TypeVar("T")

LATE_NUMBERING = 10.0  # seconds
LATE_CATCH_UP = 60.0  # seconds that an event waits for the sweeper
LATE_MAIL = 60.0  # seconds behind its time


def run_once(url: str, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Do some work in one transaction; what goes wrong is one line and exit code 1."""

    async def main() -> T:
        engine = create_engine(url, application="chats-cli", pool_size=1)
        try:
            async with transaction(create_sessions(engine)) as session:
                return await work(session)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(main())
    except Problem as problem:
        raise SettingsError(problem.detail) from None
    except (SQLAlchemyError, OSError, TimeoutError) as error:
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
        raise SettingsError(f"{value!r} is not an id") from None


class Finding(NamedTuple):
    """A line of the status, and what there is to say about it."""

    line: str
    remark: str | None
    is_fault: bool = True


def print_status() -> bool:
    """Print how everything stands; True when nothing is late, stopped or given up on."""
    head = on_conversations(event_log.read_state)
    state = on_notifications(measures.read_state)
    behind = head.head - state.cursor
    age = on_conversations(lambda session: event_log.age_behind(session, state.cursor))
    mails = ", ".join(f"{count} {name}" for name, count in sorted(state.emails.items())) or "none"
    findings = [
        Finding(
            f"log           head {head.head}, {head.unnumbered} not numbered, oldest {head.lag:.1f} s",
            "the relay is late: is it running?" if head.lag > LATE_NUMBERING else None,
        ),
        Finding(
            f"inbox         cursor {state.cursor}, {behind} behind the log, oldest {age:.1f} s",
            "the sweeper is late: is it running?" if age > LATE_CATCH_UP else None,
        ),
        Finding(f"parked        {state.parked}", "look at `chats events parked`" if state.parked else None),
        Finding(
            f"mail          {mails}",
            "look at `chats emails list --state failed`" if state.emails.get(EmailState.FAILED) else None,
            is_fault=False,  # a mailbox that does not exist is no fault of this system
        ),
        Finding(
            f"oldest due    {state.oldest_due:.1f} s",
            "mail is late" if state.oldest_due > LATE_MAIL else None,
        ),
        Finding(
            f"sending       {'paused' if state.paused else 'on'}",
            "paused by hand: `chats emails resume`" if state.paused else None,
        ),
        Finding(
            f"mail set-up   {'at fault' if state.breaker_trips else 'good'}",
            f"{state.breaker_reason} ({state.breaker_trips} times in a row)" if state.breaker_trips else None,
        ),
    ]
    for finding in findings:
        typer.echo(finding.line + (f"   <- {finding.remark}" if finding.remark else ""))
    return not any(finding.remark and finding.is_fault for finding in findings)


def print_emails(state: str | None, limit: int) -> None:
    """Print mails with the reply to their last try."""
    if state is not None and state not in set(EmailState):
        raise SettingsError(f"a state is one of {', '.join(EmailState)}")
    chosen = EmailState(state) if state else None
    rows, _ = on_notifications(
        lambda session: queries.list_emails(session, conversation_id=None, state=chosen, cursor=None, limit=limit)
    )
    if not rows:
        typer.echo("There is no such mail.")
    for email, _, tries in rows:
        last = f"{tries[-1].phase} {tries[-1].code or ''} {tries[-1].reply}" if tries else ""
        typer.echo(
            f"{email.id}  {email.created_at:%Y-%m-%d %H:%M:%S}  {email.state:<10} {email.reason or '':<22} {last}"
        )


def print_events(limit: int) -> None:
    """Print the newest events, without any text of people."""
    for row in reversed(on_conversations(lambda session: event_log.tail(session, limit))):
        typer.echo(
            f"{row.position if row.position is not None else '-':>10}  {row.occurred_at:%Y-%m-%d %H:%M:%S.%f}  "
            f"{row.type:<22} {row.id}  conversation {row.conversation_id or '-'}"
        )


def print_parked() -> None:
    """Print the events that were given up on."""
    parked = on_notifications(queries.list_parked)
    for entry in parked:
        typer.echo(f"{entry.event_id}  {entry.parked_at:%Y-%m-%d %H:%M:%S}  {entry.type:<32} {entry.reason}")
    if not parked:
        typer.echo("No event was given up on.")


def retry_parked(event_id: UUID) -> None:
    """Handle a parked event now."""
    settings = read_settings(MailSettings)
    run_once(settings.notifications_database_url, lambda session: inbox.retry_parked(session, event_id, settings))
