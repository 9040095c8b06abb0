"""The work of `chats emails suppressed`."""

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.commands.operations import on_notifications, parse_id, print_table
from services.notifications.delivery.suppression import (
    list_suppressed,
    remove_suppressed_address,
    remove_suppression,
)
from services.notifications.mail.addresses import AddressError
from services.notifications.models import Suppression
from shared.settings import SettingsError

COLUMNS = ("ID", "SINCE (UTC)", "REASON", "STATUS", "USER", "EMAIL")


def print_suppressed(user_id: str | None, limit: int) -> None:
    """Print suppressed addresses, newest first."""

    async def read(session: AsyncSession) -> list[tuple[str, ...]]:
        rows, _ = await list_suppressed(session, user_id=user_id, cursor=None, limit=limit)
        return [_row(row) for row in rows]

    print_table(COLUMNS, on_notifications(read), empty="No suppressed addresses found.")


def _row(row: Suppression) -> tuple[str, ...]:
    since = f"{row.since:%Y-%m-%d %H:%M:%S}"
    return str(row.id), since, row.reason, row.status, row.user_id or "-", str(row.email_id)


def remove(which: str) -> None:
    """Send emails to an address again, given as such or by its id in the list."""
    if "@" not in which:
        suppression_id = parse_id(which)
        on_notifications(lambda session: remove_suppression(session, suppression_id))
    else:
        try:
            found = on_notifications(lambda session: remove_suppressed_address(session, which))
        except AddressError as error:
            raise SettingsError(f"the address is {error}") from None
        if not found:
            raise SettingsError("this address is not suppressed")
    typer.echo("Removed: emails go to this address again.")
