"""The command groups `chats conversations`, `emails`, `events`, `files`, `inbound`, `people` and `webhooks`."""

from pathlib import Path
from typing import Annotated

import typer

from shared.settings import SettingsError

conversations = typer.Typer(no_args_is_help=True, help="Look at conversations that retention deletes.")
emails = typer.Typer(no_args_is_help=True, help="List and retry emails; pause and resume sending.")
suppressed = typer.Typer(no_args_is_help=True, help="List and remove addresses to which no email is sent any more.")
emails.add_typer(suppressed, name="suppressed")
events = typer.Typer(no_args_is_help=True, help="Inspect the event log; retry or discard parked events.")
files = typer.Typer(no_args_is_help=True, help="Check the file store.")
inbound = typer.Typer()
people = typer.Typer(no_args_is_help=True, help="Export and erase a person's data; merge customers.")
webhooks = typer.Typer(no_args_is_help=True, help="List webhooks and their deliveries; send one again.")

_Webhook = Annotated[str, typer.Argument(help="Id of the webhook.")]


@conversations.command("expiring")
def list_expiring_conversations(
    days: Annotated[
        float | None, typer.Option(help="Instead of CHATS_CLOSED_RETENTION_DAYS, to try a number before you set it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of conversations to list.")] = 10,
) -> None:
    """Count and list the closed conversations that are due to be deleted, the oldest first. Deletes nothing."""
    from deploy.commands.expiring import print_expiring

    print_expiring(days, limit)


@conversations.callback()
def _conversations() -> None:
    """Keep `expiring` a command of its own, as with files."""


@webhooks.command("list")
def list_all_webhooks() -> None:
    """List the store's webhooks: their URLs and types, and whether they fail or are disabled."""
    from deploy.commands.webhooks import print_webhooks

    print_webhooks()


@webhooks.command("deliveries")
def list_webhook_deliveries(
    webhook_id: _Webhook,
    state: Annotated[str | None, typer.Option(help="Only deliveries in this state, for example failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of deliveries.")] = 25,
) -> None:
    """List a webhook's deliveries, newest first, and what the last attempt led to."""
    from deploy.commands.operations import parse_id
    from deploy.commands.webhooks import print_deliveries

    print_deliveries(parse_id(webhook_id), state, limit)


@webhooks.command("replay")
def replay_webhook_delivery(
    webhook_id: _Webhook, delivery_id: Annotated[int, typer.Argument(min=1, help="Id of the delivery.")]
) -> None:
    """Send an event again. A pending delivery is attempted now, unless another one has to be first."""
    from deploy.commands.operations import parse_id
    from deploy.commands.webhooks import replay

    replay(parse_id(webhook_id), delivery_id)


@people.command("merge")
def merge_people(
    old: Annotated[str, typer.Argument(help="Id of the customer who becomes another one.")],
    into: Annotated[str, typer.Argument(help="Id of the customer whom they become.")],
) -> None:
    """Merge a customer into another one, such as a guest into the account that they made. It cannot be undone."""
    from deploy.commands.people import merge

    merge(old, into)


@files.command("check")
def check_files(
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Delete files without a row, and unfinished parts.")] = False,
) -> None:
    """Find files without a row in the database, rows without a file, and what unfinished uploads left.

    Leaves out what is younger than a day. Exits with code 1 if something does not match.
    """
    from deploy.commands.files import print_comparison

    raise typer.Exit(0 if print_comparison(delete=delete) else 1)


@files.callback()
def _files() -> None:
    """Keep `check` a command of its own: typer would make a single one the group itself."""


@people.command("export")
def export_person_data(
    user_id: Annotated[str, typer.Argument(help="The person's id in the store.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: the id and the date, here.")
    ] = None,
    *,
    internal: Annotated[
        bool, typer.Option("--internal", help="With the internal notes and labels in the person's conversations.")
    ] = False,
) -> None:
    """Export everything of a person as one ZIP archive: JSON, pages to read, and all files.

    Reads both services. If one of them, or the file store, is away, nothing is written.
    """
    from deploy.commands.people import export_person

    export_person(user_id, output, internal=internal)


@people.command("erase")
def erase_person_data(
    user_id: Annotated[str, typer.Argument(help="The person's id in the store.")],
    *,
    content: Annotated[bool, typer.Option("--content", help="Also delete a customer's conversations.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show what there is of a person, ask, and erase it, like DELETE /api/v1/store/users/{id}."""
    from deploy.commands.people import erase_person

    erase_person(user_id, content=content, dry_run=dry_run, confirmed=yes)


@inbound.command("list")
def list_inbound_emails(
    state: Annotated[str | None, typer.Option(help="Only emails in this state, for example held.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Only emails for this conversation.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of emails.")] = 25,
    *,
    addresses: Annotated[bool, typer.Option("--addresses", help="Show addresses in full.")] = False,
) -> None:
    """List emails that came in, newest first."""
    from deploy.commands.inbound import print_inbound
    from deploy.commands.operations import parse_id

    print_inbound(state, parse_id(conversation) if conversation else None, limit, addresses=addresses)


@inbound.command("show")
def show_inbound_email(
    inbound_id: Annotated[str, typer.Argument(help="Id of the email.")],
    *,
    source: Annotated[bool, typer.Option("--source", help="Show the original as it came.")] = False,
) -> None:
    """Show an email that came in: who it says it is from, its files and its whole text."""
    from deploy.commands.inbound import print_one
    from deploy.commands.operations import parse_id

    print_one(parse_id(inbound_id), source=source)


@inbound.command("post")
def post_inbound_email(
    inbound_id: Annotated[str, typer.Argument(help="Id of the held or ignored email.")],
    user: Annotated[
        str | None,
        typer.Option("--user", help="The customer whose conversation it opens, or the admin whose answer it is."),
    ] = None,
) -> None:
    """Post a held or ignored email as a message of the customer that our email went to, or of another user."""
    from deploy.commands.operations import on_notifications, parse_id
    from services.notifications.inbound.operations import post_inbound

    parsed_id = parse_id(inbound_id)
    on_notifications(lambda session: post_inbound(session, parsed_id, user_id=user, posted_by=""))
    typer.echo("It will be posted.")


@inbound.command("discard")
def discard_inbound_email(inbound_id: Annotated[str, typer.Argument(help="Id of the held or ignored email.")]) -> None:
    """Discard a held or ignored email for good. It never becomes a message."""
    from deploy.commands.operations import on_notifications, parse_id
    from services.notifications.inbound.operations import discard_inbound

    parsed_id = parse_id(inbound_id)
    on_notifications(lambda session: discard_inbound(session, parsed_id))
    typer.echo("Discarded.")


@emails.command("list")
def list_emails(
    state: Annotated[str | None, typer.Option(help="Only emails in this state, for example failed.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Only emails about this conversation.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of emails.")] = 25,
    *,
    addresses: Annotated[bool, typer.Option("--addresses", help="Show addresses in full.")] = False,
) -> None:
    """List emails, newest first, with their conversation, recipient and last reply."""
    from deploy.commands.emails import print_emails
    from deploy.commands.operations import parse_id

    print_emails(state, parse_id(conversation) if conversation else None, limit, addresses=addresses)


@emails.command("retry")
def retry_email(
    email_id: Annotated[
        str | None, typer.Argument(help="Id of the email to retry. Alternatively, use --state.")
    ] = None,
    state: Annotated[str | None, typer.Option(help="Retry all emails in this state: failed or bounced.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only emails that failed or bounced within this time, for example 2h.")
    ] = None,
    reply: Annotated[
        str | None, typer.Option(help="Only emails whose last reply matches this regular expression.")
    ] = None,
) -> None:
    """Queue one or many failed or bounced emails for another attempt."""
    from deploy.commands.emails import retry_many
    from deploy.commands.operations import on_notifications, parse_id
    from services.notifications.delivery.operations import retry_email as retry

    if (email_id is None) == (state is None) or (email_id is not None and (since or reply)):
        raise SettingsError("give the id of one email, or --state failed, optionally with --since and --reply")
    if state is not None:
        retry_many(state, since, reply)
    elif email_id is not None:
        parsed_id = parse_id(email_id)
        on_notifications(lambda session: retry(session, parsed_id))
        typer.echo("Queued for another attempt.")


@suppressed.command("list")
def list_suppressed_addresses(
    user: Annotated[str | None, typer.Option(help="Only addresses of this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of addresses.")] = 25,
) -> None:
    """List suppressed addresses, newest first: whose they are, and why. Only a hash of each is kept."""
    from deploy.commands.suppressed import print_suppressed

    print_suppressed(user, limit)


@suppressed.command("remove")
def remove_suppressed_address(
    which: Annotated[str, typer.Argument(metavar="ID|ADDRESS", help="The id in the list, or the address.")],
) -> None:
    """Send emails to an address again. Emails that were suppressed meanwhile are not sent."""
    from deploy.commands.suppressed import remove

    remove(which)


@emails.command("pause")
def pause_emails() -> None:
    """Pause sending. Emails that are being sent are completed."""
    from deploy.commands.operations import on_notifications
    from services.notifications.delivery.operations import pause_sending

    on_notifications(pause_sending)
    typer.echo("Sending is paused. Resume it with `chats emails resume`.")


@emails.command("resume")
def resume_emails() -> None:
    """Resume sending."""
    from deploy.commands.operations import on_notifications
    from services.notifications.delivery.operations import resume_sending

    on_notifications(resume_sending)
    typer.echo("Sending has resumed.")


@events.command("tail")
def tail_events(limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of events.")] = 20) -> None:
    """List the newest events of the log with position, time, type and ids."""
    from deploy.commands.operations import print_events

    print_events(limit)


@events.command("parked")
def parked_events() -> None:
    """List the parked events (dead letters): events that the notifications service could not handle."""
    from deploy.commands.operations import print_parked

    print_parked()


@events.command("retry")
def retry_event(event_id: Annotated[str, typer.Argument(help="Id of the parked event.")]) -> None:
    """Retry a parked event now."""
    from deploy.commands.operations import parse_id, retry_parked

    retry_parked(parse_id(event_id))
    typer.echo("Handled.")


@events.command("discard")
def discard_event(event_id: Annotated[str, typer.Argument(help="Id of the parked event.")]) -> None:
    """Discard a parked event for good. It will never take effect."""
    from deploy.commands.operations import on_notifications, parse_id
    from services.notifications.event_consumer.parked import discard_parked

    parsed_id = parse_id(event_id)
    on_notifications(lambda session: discard_parked(session, parsed_id))
    typer.echo("Discarded.")
