"""`chats files`: compare the file store with the database."""

import typer

from deploy.commands.operations import run_once
from services.conversations.attachments.check import Comparison, clean_up, compare
from services.conversations.attachments.file_store import FileStoreError, open_files
from services.conversations.settings import FileSettings
from shared.settings import SettingsError, read_settings
from shared.text import printable

SHOWN = 20  # names of a kind


def print_comparison(*, delete: bool) -> bool:
    """Print what does not match; with `delete`, have what nobody needs deleted. Return whether all matches."""
    settings = read_settings(FileSettings)
    files = open_files(settings)
    try:
        found = run_once(settings.conversations_database_url, lambda session: compare(session, files))
    except (FileStoreError, OSError) as error:
        raise SettingsError(f"the file store cannot be read: {error}") from None
    typer.echo(f"{found.objects} objects in the store, {found.rows} files in the database.")
    _print(found)
    if delete and (found.without_row or found.parts):
        count = run_once(settings.conversations_database_url, lambda session: clean_up(session, files, found))
        typer.echo(f"Deleting what is left of {count} files; `chats jobs` does the rest.")
        return not found.without_file
    return found.matches


def _print(found: Comparison) -> None:
    for names, what in (
        (found.without_row, "without a row in the database"),
        (found.parts, "unfinished parts, older than a day"),
        (found.foreign, "not of Customer Chats; ignored"),
        ([str(attachment_id) for attachment_id in found.without_file], "rows without their objects in the store"),
    ):
        if names:
            typer.echo(f"{len(names)} {what}:")
            for name in names[:SHOWN]:
                typer.echo(f"  {printable(name)}")
            if len(names) > SHOWN:
                typer.echo("  …")
