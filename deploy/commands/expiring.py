"""`chats conversations expiring`: which closed conversations retention deletes, before it does."""

from datetime import timedelta

import typer

from deploy.commands.operations import on_conversations
from services.conversations import jobs
from services.conversations.messaging.expiry import preview_expiry
from services.conversations.settings import MIN_CLOSED_RETENTION, StoreSettings
from shared.settings import SettingsError, read_settings


def print_expiring(days: float | None, limit: int) -> None:
    """Print how many conversations are due after `days`, by default those of the setting, and the first of them."""
    configured = read_settings(StoreSettings).closed_retention_days
    kept = configured if days is None else days
    if kept is None:
        raise SettingsError("closed conversations are kept for ever: set CHATS_CLOSED_RETENTION_DAYS, or give --days")
    if not kept >= MIN_CLOSED_RETENTION:
        raise SettingsError(f"--days must be {MIN_CLOSED_RETENTION} or more")
    preview = on_conversations(lambda session: preview_expiry(session, kept, limit=limit))
    typer.echo(
        f"{preview.due} conversations have been closed, without a message since, for {kept:g} days or more."
        f" {preview.soon} more will have been within 7 days."
    )
    for conversation in preview.first:
        typer.echo(f"{conversation.since:%Y-%m-%d %H:%M:%S}  {conversation.id}")
    if preview.due > len(preview.first):
        typer.echo(f"… and {preview.due - len(preview.first)} more")
    if configured == kept:
        seconds = preview.due // jobs.EXPIRE_BATCH * jobs.EXPIRE_PAUSE
        typer.echo(
            f"`chats jobs` deletes them, the oldest first: one copy takes {timedelta(seconds=seconds)} or longer."
        )
    else:
        now = "not set" if configured is None else f"{configured:g}"
        typer.echo(f"Nothing of this is deleted: CHATS_CLOSED_RETENTION_DAYS is {now}.")
