"""The groups `chats emails` and `chats events`: what operators see and do of mail and of the event log."""

from typing import Annotated

import typer

from shared.settings import SettingsError

emails = typer.Typer(no_args_is_help=True, help="Look at mail, retry it, pause and resume all sending.")
events = typer.Typer(no_args_is_help=True, help="Look at the event log, and at events that were given up on.")


@emails.command("list")
def list_emails(
    state: Annotated[str | None, typer.Option(help="Only emails in this state, for example failed.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Only emails about this conversation.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 25,
    *,
    addresses: Annotated[bool, typer.Option("--addresses", help="Show addresses in full.")] = False,
) -> None:
    """List emails, newest first, with their conversation, recipient and last reply."""
    from deploy.emails import print_emails
    from deploy.operations import parse_id

    print_emails(state, parse_id(conversation) if conversation else None, limit, addresses=addresses)


@emails.command("retry")
def retry_email(
    email_id: Annotated[str | None, typer.Argument(help="The email to retry; or give --state failed.")] = None,
    state: Annotated[str | None, typer.Option(help="Retry all emails in this state: failed.")] = None,
    since: Annotated[str | None, typer.Option(help="Only those that failed within this time, for example 2h.")] = None,
    reply: Annotated[
        str | None, typer.Option(help="Only those whose last reply matches this regular expression.")
    ] = None,
) -> None:
    """Queue a failed email, or many, for another attempt."""
    from deploy.emails import retry_many
    from deploy.operations import on_notifications, parse_id
    from services.notifications.delivery.operations import retry_email as retry

    if (email_id is None) == (state is None) or (email_id is not None and (since or reply)):
        raise SettingsError("give the id of one email, or --state failed with --since and --reply")
    if state is not None:
        retry_many(state, since, reply)
    elif email_id is not None:
        identity = parse_id(email_id)
        on_notifications(lambda session: retry(session, identity))
        typer.echo("Queued for another attempt.")


@emails.command("pause")
def pause_emails() -> None:
    """Stop all sending; what is on its way goes out."""
    from deploy.operations import on_notifications
    from services.notifications.delivery.operations import pause_sending

    on_notifications(pause_sending)
    typer.echo("Sending is paused. Mail waits; `chats emails resume` starts it again.")


@emails.command("resume")
def resume_emails() -> None:
    """Start sending again."""
    from deploy.operations import on_notifications
    from services.notifications.delivery.operations import resume_sending

    on_notifications(resume_sending)
    typer.echo("Sending goes on.")


@events.command("tail")
def tail_events(limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """List the newest events of the log: position, time, type, ids."""
    from deploy.operations import print_events

    print_events(limit)


@events.command("parked")
def parked_events() -> None:
    """List the events that the notifications service gave up on."""
    from deploy.operations import print_parked

    print_parked()


@events.command("retry")
def retry_event(event_id: str) -> None:
    """Handle a parked event again."""
    from deploy.operations import parse_id, retry_parked

    retry_parked(parse_id(event_id))
    typer.echo("Handled.")


@events.command("discard")
def discard_event(event_id: str) -> None:
    """Give up on a parked event for good: it has no effect, and is listed no more."""
    from deploy.operations import on_notifications, parse_id
    from services.notifications.event_consumer.parked import discard_parked

    identity = parse_id(event_id)
    on_notifications(lambda session: discard_parked(session, identity))
    typer.echo("Discarded.")
