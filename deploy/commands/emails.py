"""The work of `chats emails`: list emails, and retry many."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import typer
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.commands.operations import on_notifications, print_table, run_on
from services.notifications.api.queries import list_emails
from services.notifications.delivery.operations import RETRIABLE, retry_failed_emails_in_batches
from services.notifications.mail.addresses import masked
from services.notifications.mail.replies import one_line, without_addresses
from services.notifications.models import DeliveryAttempt, Email, Person
from services.notifications.rules import Audience, EmailState
from services.notifications.settings import StoreSettings
from shared.database.orm import any_of
from shared.database.transactions import SessionFactory
from shared.settings import SettingsError, read_settings

COLUMNS = ("ID", "CREATED (UTC)", "STATE", "REASON", "CONVERSATION", "RECIPIENT", "ADDRESS", "ATTEMPTS", "LAST REPLY")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
INVALID_REGULAR_EXPRESSION = "2201B"  # SQLSTATE


def print_emails(state: str | None, conversation: UUID | None, limit: int, *, addresses: bool) -> None:
    """Print emails, newest first, with the reply to their last attempt. Addresses are masked unless `addresses`."""
    if state is not None and state not in set(EmailState):
        raise SettingsError(f"--state must be one of {', '.join(EmailState)}")
    chosen = EmailState(state) if state else None

    async def read(session: AsyncSession) -> list[tuple[str, ...]]:
        rows, _ = await list_emails(session, conversation_id=conversation, state=chosen, cursor=None, limit=limit)
        people = select(Person.id, Person.email).where(any_of(Person.id, {email.recipient_id for email, *_ in rows}))
        current = {row.id: row.email for row in await session.execute(people)}
        return [_row(email, attempts, current, addresses=addresses) for email, _, attempts in rows]

    print_table(COLUMNS, on_notifications(read), empty="No emails found.")


def _row(
    email: Email, attempts: Sequence[DeliveryAttempt], current: Mapping[str, str | None], *, addresses: bool
) -> tuple[str, ...]:
    last = attempts[-1] if attempts else None
    reply = " ".join(filter(None, (last.phase, str(last.code or ""), last.reply))) if last else ""
    # The address is fixed at the first attempt. Before that, show the recipient's current one.
    address = one_line(email.to_address or current.get(email.recipient_id) or "") or "-"
    return (
        str(email.id),
        f"{email.created_at:%Y-%m-%d %H:%M:%S}",
        email.state,
        email.reason or "-",
        str(email.conversation_id),
        "support" if email.audience == Audience.SUPPORT else f"{email.audience} {email.recipient_id}",
        address if addresses else masked(address),
        str(len(attempts)),
        reply if addresses else without_addresses(reply),
    )


def retry_many(state: str, since: str | None, reply: str | None) -> None:
    """Queue failed or bounced emails for another attempt, all or those of a period or with a matching reply."""
    if state not in RETRIABLE:
        raise SettingsError(f"only failed and bounced emails can be retried: use --state {' or '.join(RETRIABLE)}")
    chosen = EmailState(state)
    period = parse_duration(since) if since is not None else None

    async def checked(sessions: SessionFactory) -> tuple[int, int]:
        try:
            return await retry_failed_emails_in_batches(sessions, since=period, reply=reply, state=chosen)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != INVALID_REGULAR_EXPRESSION:
                raise
            raise SettingsError("--reply must be a regular expression; a part of the reply's text works") from None

    retried, doubtful = run_on(read_settings(StoreSettings).notifications_database_url, checked)
    typer.echo(f"{retried} {'email' if retried == 1 else 'emails'} queued for another attempt.")
    if doubtful:
        typer.echo(f"{doubtful} skipped because they may have arrived (uncertain, restored). Retry these by id.")


def parse_duration(text: str) -> timedelta:
    """Read a duration such as 90s, 30m, 2h or 3d."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*([smhd])\s*", text)
    if match is None:
        raise SettingsError("--since must be a duration such as 90s, 30m, 2h or 3d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
