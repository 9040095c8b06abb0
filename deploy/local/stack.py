"""The whole system on this machine, as `make run` starts it: its processes and their order."""

import asyncio
import contextlib
import fcntl
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from deploy.listen_check import listen_error
from deploy.local import environment as env
from deploy.local.ending import stop_event
from deploy.local.overview import overview
from deploy.local.ports import free_ports
from deploy.local.postgres import create_databases, postgres, prepare
from deploy.local.processes import MARK, Child, Record
from deploy.local.proxy import proxy
from deploy.local.readiness import accepts, answers_ok
from deploy.local.supervisor import StartError, Supervisor
from deploy.local.valkey import BROKER, LIMITS, valkey

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "shop.py"
COMMAND = (sys.executable, "-m", "deploy.cli")
SERVER_SECONDS = 60.0  # PostgreSQL may have a log to replay
SERVICE_SECONDS = 60.0

# The processes, and the path of each one's readiness check.
SERVICES = {
    "api": "/readyz",
    "notifications-api": "/readyz",
    "relay": "/readyz",
    "jobs": "/readyz",
    "thumbnails": "/readyz",
    "worker": "/readyz",
    "sweeper": "/readyz",
    "inbound": "/readyz",
    "flower": "/healthcheck",
}


def run() -> int:
    """Run until a signal. Return the exit code."""
    data = Path(os.environ.get("CHATS_DATA_DIR") or ".data").resolve()
    os.environ[MARK] = str(data)
    try:
        _make_directory(data)
        with _only_run(data):
            record = Record(data / "processes.json", str(data))
            if survivors := record.end_survivors():
                _say(f"Stopped processes left over from an earlier run: {', '.join(survivors)}.")
            host, ports = _listeners()
            asyncio.run(_run(Supervisor(record, _say), data, host, ports))
    except StartError as error:
        _say(f"Customer Chats did not start: {error}", file=sys.stderr)
        return 1
    _say("Stopped.")
    return 0


def _make_directory(data: Path) -> None:
    try:
        # Others may pass through but not list it: under root, PostgreSQL runs as another account.
        data.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the data directory {data} cannot be created: {error.strerror}.") from None


async def _run(supervisor: Supervisor, data: Path, host: str, ports: dict[str, int]) -> None:
    stop = stop_event(hurry=supervisor.kill)
    start = asyncio.create_task(_start(supervisor, data, host, ports))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            await start  # raises `StartError` if the start failed
            await stopped
        _say("Stopping …")
    finally:
        start.cancel()
        stopped.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await supervisor.stop()


async def _start(supervisor: Supervisor, data: Path, host: str, ports: dict[str, int]) -> None:
    env.require_kept_password(data, data / "secrets.env")
    kept = env.keep_secrets(data / "secrets.env")
    settings = env.settings(data, host, ports, kept)
    env.write_private(data / "chats.env", settings)
    log = functools.partial(_new_log, data)

    def command(name: str, *options: str, more: Mapping[str, str] | None = None) -> Child:
        return Child(
            name=name,
            command=[*COMMAND, name, *options],
            environment={**env.without_owner_urls(os.environ), **settings, **(more or {}), "PYTHONUNBUFFERED": "1"},
            log=log(name),
            ready=_ready(name, ports.get(name, 0)),
        )

    embedded = env.embedded_parts()
    servers = _valkeys(embedded, data, ports, kept["VALKEY_PASSWORD"])
    if "mailbox" in embedded:
        servers.append(_mailbox(data / "mailbox", ports["mailbox"], ports["smtp"], settings, log("mailbox")))
    if "postgres" in embedded:
        server = await asyncio.to_thread(prepare, data / "postgres", ports["postgres"], kept["POSTGRES_PASSWORD"], _say)
        servers.append(postgres(server, log("postgres")))
    await supervisor.start(*servers, within=SERVER_SECONDS)
    if "postgres" in embedded:
        await create_databases(server, env.role_passwords(kept))
    else:
        _say("Waiting for the configured databases …")
    await supervisor.run(command("migrate", more=env.owner_urls(ports, kept)))
    if env.has_demo():
        await supervisor.run(command("demo"))
    services = [command(name, "--host", "127.0.0.1", "--port", str(ports[name])) for name in SERVICES]
    if env.has_shop():  # like any store, it syncs its users and orders as soon as the API answers
        services.append(_shop(data, settings, ports, kept, log("shop")))
    await supervisor.start(*services, within=SERVICE_SECONDS)
    trusted = os.environ.get("CHATS_TRUSTED_PROXIES", "")
    public = proxy(data / "proxy", host, ports, log("proxy"), settings["CHATS_PUBLIC_URL"], trusted)
    await supervisor.start(public, within=SERVER_SECONDS)
    if "mailbox" not in embedded:
        del ports["mailbox"]
    if not env.has_shop():
        del ports["shop"]
    _say(overview(settings, ports, SERVICES, has_demo=env.has_demo()))


def _ready(name: str, port: int) -> Callable[[], Awaitable[bool]]:
    if name == "flower":  # its health check includes the broker, and the system starts without one
        return accepts("127.0.0.1", port)
    return answers_ok(port, SERVICES.get(name, "/"))


def _listeners() -> tuple[str, dict[str, int]]:
    host = os.environ.get("CHATS_HOST") or "127.0.0.1"
    port = env.chosen_port(os.environ.get("CHATS_PORT") or "8000")
    if reason := listen_error(host, port):
        raise StartError(f"it cannot listen on {host}, port {port}: {reason}. Change CHATS_HOST or CHATS_PORT.")
    chosen = zip(env.LISTENERS, free_ports(env.preferred_ports(port)), strict=True)
    return host, {**dict(chosen), "proxy": port}


def _valkeys(embedded: set[str], data: Path, ports: Mapping[str, int], password: str) -> list[Child]:
    """Describe the broker, and the server for rate limits, which must work while the broker is full."""
    return [
        valkey(data / name, ports[name], password, _new_log(data, name), name=name, use=use)
        for name, use in (("valkey", BROKER), ("limits", LIMITS))
        if name in embedded
    ]


def _mailbox(directory: Path, web: int, smtp: int, settings: Mapping[str, str], log: Path) -> Child:
    directory.mkdir(mode=0o700, exist_ok=True)
    options: list[object] = ["--directory", directory, "--web-port", web, "--smtp-port", smtp]
    for option, name in (("--inbound", "LISTEN"), ("--authserv-id", "AUTHSERV_ID"), ("--inbound-address", "ADDRESS")):
        if value := settings.get(f"CHATS_INBOUND_{name}"):
            options += [option, value]

    async def ready() -> bool:
        return await accepts("127.0.0.1", web)() and await accepts("127.0.0.1", smtp)()

    return Child(
        name="mailbox",
        command=[sys.executable, "-m", "deploy.local.mailbox", *map(str, options)],
        log=log,
        ready=ready,
        grace=5.0,
    )


def _shop(
    data: Path, settings: Mapping[str, str], ports: Mapping[str, int], kept: Mapping[str, str], log: Path
) -> Child:
    directory = data / "shop"
    directory.mkdir(mode=0o700, exist_ok=True)
    # Only the settings that a store has: no database, no broker.
    shared = ("CHATS_AUTH_SECRET", "CHATS_AUTH_AUDIENCE", "CHATS_AUTH_ISSUER", "CHATS_STORE_NAME")
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith("SHOP_")},
        **{name: settings[name] for name in shared if name in settings},
        MARK: str(data),
        "CHATS_URL": settings["CHATS_PUBLIC_URL"],
        "SHOP_PORT": str(ports["shop"]),
        "SHOP_URL": env.shop_url(ports),
        "SHOP_SECRET": kept["SHOP_SECRET"],
        "SHOP_DATA": str(directory / "orders.json"),
    }
    return Child(
        name="shop",
        command=[sys.executable, SHOP],
        environment=environment,
        log=log,
        ready=answers_ok(ports["shop"], "/healthz"),
        grace=5.0,
    )


def _new_log(data: Path, name: str) -> Path:
    """Start a new log, and keep that of the previous run as `.previous.log`."""
    directory = data / "logs"
    directory.mkdir(mode=0o700, exist_ok=True)
    log = directory / f"{name}.log"
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    return log


@contextlib.contextmanager
def _only_run(data: Path) -> Iterator[None]:
    """Lock the data directory. Raise `StartError` if another run holds the lock."""
    with (data / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartError(f"it is already running on {data} (process {lock.read().strip()}).") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _say(text: str, file: TextIO | None = None) -> None:
    with contextlib.suppress(OSError):  # a closed terminal must not keep processes from being stopped
        print(text, file=file, flush=True)
