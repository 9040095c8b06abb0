"""What operators see and do of emails from the command line."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import typer
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.operations import on_notifications, run_on
from services.notifications.api.queries import list_emails
from services.notifications.delivery.operations import count_doubtful_emails, retry_failed_emails
from services.notifications.mail.addresses import masked
from services.notifications.mail.replies import one_line, without_addresses
from services.notifications.models import DeliveryAttempt, Email, Person
from services.notifications.rules import Audience, EmailState
from services.notifications.settings import StoreSettings
from shared.database import SessionFactory, transaction
from shared.settings import SettingsError, read_settings
from shared.tables import any_of

COLUMNS = ("ID", "CREATED (UTC)", "STATE", "REASON", "CONVERSATION", "RECIPIENT", "ADDRESS", "TRIES", "LAST REPLY")
RETRY_BATCH = 1000  # emails of one transaction
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
INVALID_REGULAR_EXPRESSION = "2201B"  # PostgreSQL's code


def print_emails(state: str | None, conversation: UUID | None, limit: int, *, addresses: bool) -> None:
    """Print emails, newest first, with the reply to their last attempt; addresses in full only on request."""
    if state is not None and state not in set(EmailState):
        raise SettingsError(f"a state is one of {', '.join(EmailState)}")
    chosen = EmailState(state) if state else None

    async def read(session: AsyncSession) -> list[tuple[str, ...]]:
        rows, _ = await list_emails(session, conversation_id=conversation, state=chosen, cursor=None, limit=limit)
        people = select(Person.id, Person.email).where(any_of(Person.id, {email.recipient_id for email, *_ in rows}))
        known = {row.id: row.email for row in await session.execute(people)}
        return [_row(email, tries, known, addresses=addresses) for email, _, tries in rows]

    rows = on_notifications(read)
    widths = [max(len(row[place]) for row in (COLUMNS, *rows)) for place in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        typer.echo("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        typer.echo("No emails found.")


def _row(
    email: Email, tries: Sequence[DeliveryAttempt], known: Mapping[str, str | None], *, addresses: bool
) -> tuple[str, ...]:
    last = " ".join(filter(None, (tries[-1].phase, str(tries[-1].code or ""), tries[-1].reply))) if tries else ""
    # Before an email is first sent it goes to where its recipient is by then.
    address = one_line(email.to_address or known.get(email.recipient_id) or "") or "-"
    return (
        str(email.id),
        f"{email.created_at:%Y-%m-%d %H:%M:%S}",
        email.state,
        email.reason or "-",
        str(email.conversation_id),
        "support" if email.audience == Audience.SUPPORT else f"customer {email.recipient_id}",
        address if addresses else masked(address),
        str(len(tries)),
        last if addresses else without_addresses(last),
    )


def retry_many(state: str, since: str | None, reply: str | None) -> None:
    """Queue all failed emails of a time, with a reply, for another attempt; a thousand in each transaction."""
    if state != EmailState.FAILED:
        raise SettingsError(f"only failed emails can be retried: --state {EmailState.FAILED}")
    within = parse_duration(since) if since is not None else None

    async def work(sessions: SessionFactory) -> tuple[int, int]:
        async with transaction(sessions) as session:
            began: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
            doubtful = await count_doubtful_emails(session, began, since=within, reply=reply)
        retried = 0
        while True:
            async with transaction(sessions) as session:
                count = await retry_failed_emails(session, began, since=within, reply=reply, size=RETRY_BATCH)
            retried += count
            if not count:
                return retried, doubtful

    async def checked(sessions: SessionFactory) -> tuple[int, int]:
        try:
            return await work(sessions)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != INVALID_REGULAR_EXPRESSION:
                raise
            raise SettingsError("--reply is not a regular expression; a part of the reply is one") from None

    retried, doubtful = run_on(read_settings(StoreSettings).notifications_database_url, checked)
    typer.echo(f"{retried} {'email' if retried == 1 else 'emails'} queued for another attempt.")
    if doubtful:
        typer.echo(f"{doubtful} may have arrived already (uncertain, restored): retry these by their id.")


def parse_duration(text: str) -> timedelta:
    """Read a time such as 90s, 30m, 2h or 3d."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*([smhd])\s*", text)
    if found is None:
        raise SettingsError("--since is a time such as 90s, 30m, 2h or 3d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})
