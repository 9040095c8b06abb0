"""The work of `chats inbound list` and `show`."""

from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.commands.operations import on_notifications, print_table
from services.notifications.inbound.operations import list_inbound, read_original
from services.notifications.inbound.parsing.mime import parse_email
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.inbound.quotes.reply_text import read_text
from services.notifications.mail.addresses import masked
from services.notifications.mail.fingerprints import Fingerprints
from services.notifications.models import InboundEmail
from services.notifications.rules import InboundState
from shared.settings import SettingsError

COLUMNS = ("ID", "RECEIVED (UTC)", "KIND", "STATE", "REASON", "CONVERSATION", "USER", "FROM", "BYTES")


def print_inbound(state: str | None, conversation: UUID | None, limit: int, *, addresses: bool) -> None:
    """Print emails that came in, newest first. Addresses are masked unless `addresses`."""
    if state is not None and state not in set(InboundState):
        raise SettingsError(f"--state must be one of {', '.join(InboundState)}")
    chosen = InboundState(state) if state else None

    async def read(session: AsyncSession) -> list[tuple[str, ...]]:
        rows, _ = await list_inbound(session, conversation_id=conversation, state=chosen, cursor=None, limit=limit)
        return [_row(email, addresses=addresses) for email, _ in rows]

    print_table(COLUMNS, on_notifications(read), empty="No emails found.")


def _row(email: InboundEmail, *, addresses: bool) -> tuple[str, ...]:
    sender = email.from_address or "-"
    return (
        str(email.id),
        f"{email.received_at:%Y-%m-%d %H:%M:%S}",
        email.kind,
        email.state,
        email.reason or "-",
        str(email.conversation_id),
        email.user_id or "-",
        sender if addresses else masked(sender),
        str(email.size),
    )


def print_one(inbound_id: UUID, *, source: bool) -> None:
    """Print the headers of an email that say what it is, and its text; or its source."""

    async def read(session: AsyncSession) -> bytes:
        return await read_original(session, inbound_id)

    content = on_notifications(read)
    if source:
        typer.echo(content.decode(errors="replace"))
        return
    email = parse_email(content)
    for name in ("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"):
        if value := email.header(name.lower()):
            typer.echo(f"{name}: {value}")
    for file in email.files:
        typer.echo(f"File: {file.name} ({len(file.content)} bytes)")
    typer.echo("")
    typer.echo(read_text(email, Fingerprints([]), Known([])).text)
