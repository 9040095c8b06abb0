"""The `chats` command: runs every process of Customer Chats, and the commands for operators."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import structlog
import typer
from dotenv import dotenv_values

from deploy.commands.groups import conversations, emails, events, files, inbound, people, webhooks
from deploy.doctor.findings import Area
from deploy.setting_files import read_setting_files
from shared.auth.principal import Permission
from shared.settings import Settings, SettingsError

# Each command imports its own service, so that no process loads the other one.
SERVICES = Path(__file__).parent.parent / "services"
MAX_TOKEN_HOURS = 24 * 365

# These commands never read the settings of a local run: a missing setting must be an error.
_ENVIRONMENT_ONLY = {
    *("run", "api", "notifications-api", "relay", "jobs", "thumbnails", "worker", "sweeper", "migrate"),
    "inbound",  # the process; not its commands
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs are reflowed
    help="Run and operate Customer Chats.",
)
app.add_typer(conversations, name="conversations")
app.add_typer(emails, name="emails")
app.add_typer(events, name="events")
app.add_typer(files, name="files")
app.add_typer(inbound, name="inbound")
app.add_typer(people, name="people")
app.add_typer(webhooks, name="webhooks")

SomeSettings = TypeVar("SomeSettings", bound=Settings)
Host = Annotated[str, typer.Option(envvar="CHATS_LISTEN_HOST", help="Address to listen on.")]


def _port(default: int) -> Any:
    return typer.Option(default, min=1, max=65535, help="Port for HTTP requests, health checks and metrics.")


def main() -> None:
    """Run the command line. Invalid settings are reported in one line, with exit code 1."""
    # Commands report errors themselves, in that one line. Processes configure their own logs.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        read_setting_files()
        if sys.argv[1:] and not _is_environment_only(sys.argv[1:]):
            _load_local_environment()
        app()
    except SettingsError as error:
        sys.exit(f"chats: {error}")


def _is_environment_only(arguments: list[str]) -> bool:
    """Return whether a command is one of `_ENVIRONMENT_ONLY`: `inbound --port 8009` is, `inbound list` is not."""
    is_inbound_command = arguments[0] == "inbound" and len(arguments) > 1 and not arguments[1].startswith("-")
    return arguments[0] in _ENVIRONMENT_ONLY and not is_inbound_command


def _load_local_environment() -> None:
    """Load the settings of the system that `make run` started. Variables that are already set win."""
    path = Path(os.environ.get("CHATS_DATA_DIR", ".data")) / "chats.env"
    if path.is_file():
        for name, value in dotenv_values(path).items():
            os.environ.setdefault(name, value or "")


@app.command()
def run() -> None:
    """Run the whole system on this machine, including PostgreSQL and Valkey."""
    from deploy.local.stack import run as run_stack

    raise typer.Exit(run_stack())


@app.command()
def api(host: Host = "127.0.0.1", port: int = _port(8001)) -> None:
    """Run the conversations service: its API and web pages."""
    from services.conversations.app import create_app
    from services.conversations.settings import ApiSettings
    from shared.process.running import create_server
    from shared.settings import read_settings

    settings = read_settings(ApiSettings)
    _observe("api", settings)
    _check_port(host, port)
    application = create_app(settings)
    create_server(
        application,
        host,
        port,
        on_stop=application.state.hub.close,
        trusted_proxies=settings.trusted_proxies,
        drain_seconds=settings.drain_seconds,
    ).run()


@app.command()
def relay(host: Host = "127.0.0.1", port: int = _port(8003)) -> None:
    """Run the relay, which numbers the event log and publishes events to the broker."""
    from services.conversations.relay import run_relay
    from services.conversations.settings import StoreSettings

    _run_process("relay", StoreSettings, run_relay, host, port)


@app.command()
def jobs(host: Host = "127.0.0.1", port: int = _port(8007)) -> None:
    """Run the jobs of the conversations service: indexing, counting, erasing, purging, files, webhooks."""
    from services.conversations.jobs import run_jobs
    from services.conversations.settings import JobsSettings

    _run_process("jobs", JobsSettings, run_jobs, host, port)


@app.command()
def thumbnails(host: Host = "127.0.0.1", port: int = _port(8008)) -> None:
    """Run the process that makes the thumbnails of pictures."""
    from services.conversations.settings import FileSettings
    from services.conversations.thumbnails import run_thumbnails

    _run_process("thumbnails", FileSettings, run_thumbnails, host, port)


@app.command("notifications-api")
def notifications_api(host: Host = "127.0.0.1", port: int = _port(8002)) -> None:
    """Run the notifications API."""
    from services.notifications.app import create_app
    from services.notifications.settings import ApiSettings
    from shared.process.running import create_server
    from shared.settings import read_settings

    settings = read_settings(ApiSettings)
    _observe("notifications-api", settings)
    _check_port(host, port)
    create_server(
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
    concurrency: Annotated[int, typer.Option(help="Number of worker processes.")] = 2,
    queue: Annotated[
        list[str] | None, typer.Option(help="Consume only this queue. Repeat for several. Default: all queues.")
    ] = None,
) -> None:
    """Run a Celery worker, which turns events into notifications and emails.

    A slow mail server can occupy a worker. To keep notifications fast, run a second worker with
    `--queue chats.hints.events`. Exits with code 1 if the broker rejects the worker or the worker fails.
    """
    from services.notifications.settings import EmailSettings
    from services.notifications.worker import run_worker
    from shared.settings import read_settings

    settings = read_settings(EmailSettings)
    _log("worker", settings.log_level)  # its children configure their own traces
    _check_port(host, port)
    raise typer.Exit(run_worker(settings, host, port, concurrency, queue))


@app.command()
def sweeper(host: Host = "127.0.0.1", port: int = _port(8005)) -> None:
    """Run the sweeper, which handles missed events and overdue emails without the broker."""
    from services.notifications.settings import SweeperSettings
    from services.notifications.sweeper import run_sweeper

    _run_process("sweeper", SweeperSettings, run_sweeper, host, port)


@inbound.callback(invoke_without_command=True)
def run_inbound_process(context: typer.Context, host: Host = "127.0.0.1", port: int = _port(8009)) -> None:
    """Run the process that takes in emails by LMTP or SMTP and posts them. With a command: list, post, discard them."""
    if context.invoked_subcommand is not None:
        return
    from services.notifications.inbound_process import run_inbound
    from services.notifications.settings import InboundSettings

    _run_process("inbound", InboundSettings, run_inbound, host, port)


@app.command()
def flower(host: Host = "127.0.0.1", port: int = _port(8006)) -> None:
    """Run Flower, a read-only dashboard of the workers. Requires CHATS_FLOWER_BASIC_AUTH.

    On RabbitMQ it counts queues by AMQP, or by the management plugin's API if CHATS_FLOWER_BROKER_API is set.
    """
    from deploy.flower_views import install
    from shared.broker.celery_app import create_celery
    from shared.settings import Settings, read_settings

    settings = read_settings(Settings)
    _observe("flower", settings)
    _check_port(host, port)
    password = os.environ.get("CHATS_FLOWER_BASIC_AUTH", "")
    if not all(password.partition(":")):
        raise SettingsError("CHATS_FLOWER_BASIC_AUTH must be set to user:password")
    arguments = ["flower", f"--address={host}", f"--port={port}", "--read_only=True", "--natural_time=False"]
    os.environ["FLOWER_BASIC_AUTH"] = password  # not an argument: process lists show those
    if broker_api := os.environ.get("CHATS_FLOWER_BROKER_API"):
        os.environ["FLOWER_BROKER_API"] = broker_api
    celery = create_celery(settings.broker_url, client="chats-flower")
    install(celery)
    celery.start(arguments)


@app.command()
def migrate() -> None:
    """Migrate the configured databases to the newest version.

    If CHATS_CONVERSATIONS_OWNER_URL or CHATS_NOTIFICATIONS_OWNER_URL is set, its role creates and owns the tables; the
    role of the matching CHATS_..._DATABASE_URL can then only read and write rows.
    """
    from services.conversations.settings import MigrationSettings as ConversationsSettings
    from services.notifications.settings import MigrationSettings as NotificationsSettings
    from shared.database.migrations import upgrade
    from shared.settings import read_settings

    _log("migrate", "info")
    if os.environ.get("CHATS_CONVERSATIONS_DATABASE_URL"):
        settings = read_settings(ConversationsSettings)
        upgrade(SERVICES / "conversations", settings.conversations_database_url, settings.conversations_owner_url)
    if os.environ.get("CHATS_NOTIFICATIONS_DATABASE_URL"):
        mail_settings = read_settings(NotificationsSettings)
        upgrade(
            SERVICES / "notifications", mail_settings.notifications_database_url, mail_settings.notifications_owner_url
        )
    if not any(os.environ.get(f"CHATS_{name}_DATABASE_URL") for name in ("CONVERSATIONS", "NOTIFICATIONS")):
        raise SettingsError("set CHATS_CONVERSATIONS_DATABASE_URL, CHATS_NOTIFICATIONS_DATABASE_URL, or both")


@app.command()
def token(
    sub: Annotated[str, typer.Option(help="The user's id in the store.")],
    role: Annotated[str, typer.Option(help="customer, admin or store.")],
    email: Annotated[str | None, typer.Option(help="Email address.")] = None,
    name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    locale: Annotated[str | None, typer.Option(help="Language of pages and emails, for example de-AT.")] = None,
    zoneinfo: Annotated[str | None, typer.Option(help="Time zone, for example Europe/Vienna.")] = None,
    permission: Annotated[list[Permission] | None, typer.Option(help="An admin's permission. Repeatable.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=MAX_TOKEN_HOURS, help="Validity in hours.")] = 12,
) -> None:
    """Print a bearer token, signed with the first secret of CHATS_AUTH_SECRET."""
    from shared.auth.claims import put_claim
    from shared.auth.tokens import issue_token, store_claims, verify_token
    from shared.problems import Unauthenticated
    from shared.settings import Role, TokenSettings, read_settings

    settings = read_settings(TokenSettings)
    if not settings.auth_secret:
        raise SettingsError("cannot sign a token: set CHATS_AUTH_SECRET (a JWKS URL only provides public keys)")
    if permission and settings.auth_permissions_claim is None:
        raise SettingsError("CHATS_AUTH_PERMISSIONS_CLAIM must name the claim for permissions")
    profile = {"email": email, "name": name, "locale": locale, "zoneinfo": zoneinfo}
    claims = store_claims(settings, sub, role, **profile)
    if permission and settings.auth_permissions_claim is not None:
        put_claim(claims, settings.auth_permissions_claim, list(permission))
    signed = issue_token(settings, claims, timedelta(hours=hours))
    try:
        verify_token(signed, settings)
    except Unauthenticated as error:
        raise SettingsError(f"{error.detail} Roles: {', '.join(Role)}.") from None
    typer.echo(signed)


@app.command()
def demo() -> None:
    """Add demo users, orders and conversations, unless conversations exist already."""
    from deploy.commands.operations import run_once
    from services.conversations.demo.load import add_demo
    from services.conversations.settings import StoreSettings
    from shared.settings import read_settings

    url = read_settings(StoreSettings).conversations_database_url
    added = run_once(url, add_demo)
    typer.echo("Demo data added." if added else "Nothing added: conversations exist already.")


@app.command("import")
def import_file(
    file: Annotated[str, typer.Argument(help="NDJSON file with one user or order per line; - for standard input.")],
) -> None:
    """Import users and orders from an NDJSON file.

    The format is that of POST /api/v1/store/import. Running it again is safe: nothing is imported twice. Exits with
    code 1 if a line was rejected.
    """
    from deploy.commands.importing import import_users_and_orders

    raise typer.Exit(0 if import_users_and_orders(file) else 1)


@app.command()
def status() -> None:
    """Show the state of the event log, the broker and email. Exits with code 1 if something is late or stopped."""
    from deploy.commands.status import print_status

    raise typer.Exit(0 if print_status() else 1)


@app.command()
def doctor(
    areas: Annotated[list[Area] | None, typer.Argument(help="What to check. Default: all but embed.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    token: Annotated[
        str | None, typer.Option(help="embed: your store's token; - reads it from standard input.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="embed: origin of the pages, such as https://store.example.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="embed: Customer Chats. Default: CHATS_PUBLIC_URL.")] = None,
) -> None:
    """Check settings, servers, rights, email and the proxy, and say what to do.

    Checks what the settings in its environment name, and says what it could not check. `embed` says whether the
    messenger would open on a page of an origin, with a token, and why not. Exits with code 1 if there are warnings, and
    2 if there are faults.
    """
    from deploy.doctor.embed import check
    from deploy.doctor.report import examine

    _log("doctor", "error")
    chosen = areas or [area for area in Area if area is not Area.EMBED]
    if Area.EMBED not in chosen and (token, origin, url) != (None, None, None):
        raise SettingsError("--token, --origin and --url belong to `chats doctor embed`")
    given = sys.stdin.read() if token == "-" and Area.EMBED in chosen else token  # noqa: S105 - not a token
    raise typer.Exit(examine(chosen, as_json=as_json, embed=partial(check, given, origin, url)).exit_code)


@app.command()
def restored(service: Annotated[str, typer.Argument(help="conversations or notifications")]) -> None:
    """Mark a service's database as restored from a backup. Run this before starting its processes.

    Restores to another server, database or timeline are detected automatically. Restores of a storage snapshot are not.
    """
    from deploy.commands.operations import declare_restored

    typer.echo(declare_restored(service))


def _run_process(
    process: str,
    settings_class: type[SomeSettings],
    work: Callable[[SomeSettings, str, int, asyncio.Event], Coroutine[Any, Any, None]],
    host: str,
    port: int,
) -> None:
    """Run a process of Customer Chats until it is asked to stop."""
    from shared.process.running import run_until_signal
    from shared.settings import read_settings

    settings = read_settings(settings_class)
    _observe(process, settings)
    _check_port(host, port)
    run_until_signal(lambda stop: work(settings, host, port, stop))


def _check_port(host: str, port: int) -> None:
    from deploy.listen_check import listen_error

    if reason := listen_error(host, port):
        raise SettingsError(f"cannot listen on {host}, port {port}: {reason}")


def _observe(process: str, settings: Settings) -> None:
    from shared.observability.tracing import configure_tracing

    _log(process, settings.log_level)
    configure_tracing(process, settings)


def _log(process: str, level: str) -> None:
    from shared.observability.logs import configure_logging

    configure_logging(process, level)


if __name__ == "__main__":
    main()
