"""The groups `chats emails` and `chats events`: what operators see and do of mail and of the event log."""

from typing import Annotated

import typer

emails = typer.Typer(no_args_is_help=True, help="Look at mail, retry it, pause and resume all sending.")
events = typer.Typer(no_args_is_help=True, help="Look at the event log, and at events that were given up on.")


@emails.command("list")
def list_emails(state: str | None = None, limit: Annotated[int, typer.Option(min=1, max=100)] = 25) -> None:
    """List mails, newest first, with their last reply."""
    from deploy.operations import print_emails

    print_emails(state, limit)


@emails.command("retry")
def retry_email(email_id: str) -> None:
    """Let a failed mail be due again."""
    from deploy.operations import on_notifications, parse_id
    from services.notifications.commands import retry_email as retry

    identity = parse_id(email_id)
    on_notifications(lambda session: retry(session, identity))
    typer.echo("It is due again.")


@emails.command("pause")
def pause_emails() -> None:
    """Stop all sending; what is on its way goes out."""
    from deploy.operations import on_notifications
    from services.notifications.commands import pause_sending

    on_notifications(pause_sending)
    typer.echo("Sending is paused. Mail waits; `chats emails resume` starts it again.")


@emails.command("resume")
def resume_emails() -> None:
    """Start sending again."""
    from deploy.operations import on_notifications
    from services.notifications.commands import resume_sending

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
    from services.notifications.inbox import discard_parked

    identity = parse_id(event_id)
    on_notifications(lambda session: discard_parked(session, identity))
    typer.echo("Discarded.")
