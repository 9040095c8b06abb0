"""The `chats` command: every process of the product, and what its operators need.

A service is imported by the command that runs it, so that no process loads the other service.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from dotenv import dotenv_values

from deploy.groups import emails, events
from shared.settings import SettingsError

SERVICES = Path(__file__).parent.parent / "services"
MAX_TOKEN_HOURS = 24 * 365

# What runs the product is told everything, or says what is missing: no forgotten setting may come from a trial run.
_TOLD_ALL = {"run", "api", "notifications-api", "relay", "worker", "sweeper", "migrate"}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(emails, name="emails")
app.add_typer(events, name="events")

Host = Annotated[str, typer.Option(envvar="CHATS_LISTEN_HOST", help="Address to listen on.")]


def _port(default: int) -> Any:
    return typer.Option(default, min=1, max=65535, help="Port for HTTP, health and metrics.")


def main() -> None:
    """Run the command line; a fault of the settings is one line and exit code 1."""
    if sys.argv[1:2] and sys.argv[1] not in _TOLD_ALL:
        _load_local_environment()
    try:
        app()
    except SettingsError as error:
        sys.exit(f"chats: {error}")


def _load_local_environment() -> None:
    """Let commands in another shell find the system that `make run` started; what is set already wins."""
    local = Path(os.environ.get("CHATS_DATA_DIR", ".data")) / "chats.env"
    if local.is_file():
        for name, value in dotenv_values(local).items():
            os.environ.setdefault(name, value or "")


@app.command()
def run() -> None:
    """Run the whole system on this machine, embedded PostgreSQL and Valkey included."""
    from deploy.local.stack import run as run_stack

    raise typer.Exit(run_stack())


@app.command()
def api(host: Host = "127.0.0.1", port: int = _port(8001)) -> None:
    """Serve the conversations API."""
    from services.conversations.app import create_app
    from services.conversations.settings import ApiSettings
    from shared.processes import server, tune_gc
    from shared.settings import read_settings

    settings = read_settings(ApiSettings)
    _log("api", settings.log_level)
    _check_port(host, port)
    application = create_app(settings)
    tune_gc()
    server(
        application,
        host,
        port,
        on_stop=application.state.hub.close,
        trusted_proxies=settings.trusted_proxies,
        drain_seconds=settings.drain_seconds,
    ).run()


@app.command()
def relay(host: Host = "127.0.0.1", port: int = _port(8003)) -> None:
    """Number the event log and publish it to Celery."""
    from services.conversations.relay import run_relay
    from services.conversations.settings import StoreSettings
    from shared.processes import run_until_signal
    from shared.settings import read_settings

    settings = read_settings(StoreSettings)
    _log("relay", settings.log_level)
    _check_port(host, port)
    run_until_signal(lambda stop: run_relay(settings, host, port, stop))


@app.command("notifications-api")
def notifications_api(host: Host = "127.0.0.1", port: int = _port(8002)) -> None:
    """Serve the notifications API."""
    from services.notifications.app import create_app
    from services.notifications.settings import ApiSettings
    from shared.processes import server
    from shared.settings import read_settings

    settings = read_settings(ApiSettings)
    _log("notifications-api", settings.log_level)
    _check_port(host, port)
    server(
        create_app(settings),
        host,
        port,
        trusted_proxies=settings.trusted_proxies,
        drain_seconds=settings.drain_seconds,
    ).run()


@app.command()
def worker(
    host: Host = "127.0.0.1",
    port: int = _port(8004),
    concurrency: int = 4,
    queue: Annotated[list[str] | None, typer.Option(help="Take tasks of this queue only; may repeat.")] = None,
) -> None:
    """Turn events into notifications and email, as a Celery worker.

    A slow mail server can keep a worker busy; another with `--queue chats.hints.events` then has the records to itself.
    Exit code 1 when the broker refuses the worker, or it cannot go on.
    """
    from services.notifications.settings import MailSettings
    from services.notifications.worker import run_worker
    from shared.settings import read_settings

    settings = read_settings(MailSettings)
    _log("worker", settings.log_level)
    _check_port(host, port)
    raise typer.Exit(run_worker(settings, host, port, concurrency, queue))


@app.command()
def sweeper(host: Host = "127.0.0.1", port: int = _port(8005)) -> None:
    """Catch up with the log and send what is overdue, without the broker."""
    from services.notifications.settings import SweeperSettings
    from services.notifications.sweeper import run_sweeper
    from shared.processes import run_until_signal
    from shared.settings import read_settings

    settings = read_settings(SweeperSettings)
    _log("sweeper", settings.log_level)
    _check_port(host, port)
    run_until_signal(lambda stop: run_sweeper(settings, host, port, stop))


@app.command()
def flower(host: Host = "127.0.0.1", port: int = _port(8006)) -> None:
    """Watch the workers in Flower, read-only, with the user and password of CHATS_FLOWER_BASIC_AUTH."""
    from deploy.flower_views import install
    from shared.broker import create_celery
    from shared.settings import Settings, read_settings

    settings = read_settings(Settings)
    _log("flower", settings.log_level)
    _check_port(host, port)
    password = os.environ.get("CHATS_FLOWER_BASIC_AUTH", "")
    if not all(password.partition(":")):
        raise SettingsError("CHATS_FLOWER_BASIC_AUTH is not set to user:password, and nobody may look without one")
    arguments = ["flower", f"--address={host}", f"--port={port}", "--read_only=True", "--natural_time=False"]
    os.environ["FLOWER_BASIC_AUTH"] = password  # not an argument: those are in every process list
    celery = create_celery(settings.broker_url, client="chats-flower")
    install(celery)
    celery.start(arguments)


@app.command()
def migrate() -> None:
    """Bring the databases that are configured to their newest version.

    With CHATS_…_OWNER_URL as that role, which then owns the tables; the role of CHATS_…_DATABASE_URL gets to work with
    their rows, and with no more.
    """
    from services.conversations.settings import MigrationSettings as ConversationsSettings
    from services.notifications.settings import MigrationSettings as NotificationsSettings
    from shared.migrations import upgrade
    from shared.settings import read_settings

    _log("migrate", "info")
    if os.environ.get("CHATS_CONVERSATIONS_DATABASE_URL"):
        store = read_settings(ConversationsSettings)
        upgrade(SERVICES / "conversations", store.conversations_database_url, store.conversations_owner_url)
    if os.environ.get("CHATS_NOTIFICATIONS_DATABASE_URL"):
        other = read_settings(NotificationsSettings)
        upgrade(SERVICES / "notifications", other.notifications_database_url, other.notifications_owner_url)
    if not any(os.environ.get(f"CHATS_{name}_DATABASE_URL") for name in ("CONVERSATIONS", "NOTIFICATIONS")):
        raise SettingsError("neither CHATS_CONVERSATIONS_DATABASE_URL nor CHATS_NOTIFICATIONS_DATABASE_URL is set")


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="The user's id in the store.")],
    role: Annotated[str, typer.Option(help="customer, admin or store.")],
    email: str | None = None,
    name: str | None = None,
    locale: Annotated[str | None, typer.Option(help="The language of pages and mails, as de-AT.")] = None,
    zoneinfo: Annotated[str | None, typer.Option(help="The zone of their times, as Europe/Vienna.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=MAX_TOKEN_HOURS, help="How long it is valid.")] = 12,
) -> None:
    """Print a token signed with the first secret, as the store would sign it."""
    from shared.auth import issue_token, store_claims, verify_token
    from shared.problems import Unauthenticated
    from shared.settings import Role, TokenSettings, read_settings

    settings = read_settings(TokenSettings)
    if not settings.auth_secret:
        raise SettingsError("CHATS_AUTH_SECRET is not set, and what CHATS_AUTH_JWKS_URL has are no keys to sign with")
    profile = {"email": email, "name": name, "locale": locale, "zoneinfo": zoneinfo}
    signed = issue_token(settings, store_claims(settings, sub, role, **profile), timedelta(hours=hours))
    try:
        verify_token(signed, settings)
    except Unauthenticated as error:
        raise SettingsError(f"{error.detail} A role is one of {', '.join(Role)}.") from None
    typer.echo(signed)


@app.command()
def demo() -> None:
    """Put in demo users, orders and conversations, unless there are conversations already."""
    from deploy.operations import run_once
    from services.conversations.demo.load import add_demo
    from services.conversations.settings import StoreSettings
    from shared.settings import read_settings

    url = read_settings(StoreSettings).conversations_database_url
    added = run_once(url, add_demo)
    typer.echo("Demo data added." if added else "There are conversations already; nothing was added.")


@app.command("import")
def import_file(
    file: Annotated[str, typer.Argument(help="NDJSON, a user or an order a line; - is the standard input.")],
) -> None:
    """Take over the store's users and orders from a file; exit code 1 when a line was refused.

    Each line is what POST /api/v1/store/import takes. It may be run again: nothing is taken twice.
    """
    from deploy.operations import import_lines_of

    raise typer.Exit(0 if import_lines_of(file) else 1)


@app.command()
def status() -> None:
    """Say how the log, the inbox and the mail stand; exit code 1 when something is late or stopped."""
    from deploy.operations import print_status

    raise typer.Exit(0 if print_status() else 1)


@app.command()
def restored(service: Annotated[str, typer.Argument(help="conversations or notifications")]) -> None:
    """Say that a service's database was restored from a backup, before its processes start on it.

    A restore to another server, database or timeline is noticed without it; one from a snapshot of the storage is not.
    """
    from deploy.operations import declare_restored

    typer.echo(declare_restored(service))


def _check_port(host: str, port: int) -> None:
    from deploy.listen_check import why_not

    if reason := why_not(host, port):
        raise SettingsError(f"cannot listen on {host}, port {port}: {reason}")


def _log(process: str, level: str) -> None:
    from shared.observability import configure_logging

    configure_logging(process, level)


if __name__ == "__main__":
    main()
