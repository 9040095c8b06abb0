"""Child processes: started so that they cannot outlive us, ended with everything they started."""

import asyncio
import contextlib
import ctypes
import importlib.util
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

# An environment variable of every child, with its data directory. Grandchildren inherit it, so that a later start
# finds those whose parent has ended.
MARK = "CHATS_SUPERVISED_FOR"

PR_SET_PDEATHSIG = 1
SURVIVOR_GRACE = 5.0


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process to keep running. `grace` is the number of seconds it gets after `stop_signal`."""

    name: str
    command: Sequence[str | Path]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    directory: Path | None = None
    account: pwd.struct_passwd | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 28.0


class Running(Protocol):
    """A child that was started, as asyncio describes it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative signal that ended it; None while it runs."""

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal."""

    async def wait(self) -> int:
        """Wait until it has ended; return its exit code."""


Spawn = Callable[[Child], Awaitable[Running]]


async def spawn(child: Child) -> asyncio.subprocess.Process:
    """Start a child in its own session, so that Ctrl-C reaches only the supervisor."""
    account = child.account
    with child.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *child.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child.environment,
            cwd=child.directory,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with(os.getpid()),
        )


async def end(process: Running, stop_signal: signal.Signals, grace: float) -> None:
    """Ask a child to stop. When it has ended, or after `grace` seconds, kill the rest of its process group."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(stop_signal)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), grace)
    kill_group(process.pid)
    await process.wait()


def kill_group(leader: int) -> None:
    """Kill a child and the rest of its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def how_it_ended(status: int) -> str:
    """Describe an exit status."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"


def last_lines(log: Path) -> str:
    """Return the last five lines of a log, indented; empty if there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return "".join(f"\n    {line}" for line in lines[-5:])
    return ""


def package_directory(name: str) -> Path:
    """Return the directory of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {name} is not installed: run `make setup`")
    return Path(spec.origin).parent


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to send this process a signal when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return a function for the child to call before exec, so that the kernel kills it when the supervisor dies.

    It runs after the change of user, which would undo the request. Other systems lack the call; there the next start
    ends survivors.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork: imports and locks are not safe after it

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return ask_kernel


class Record:
    """The children's pids on disk, so that a later start finds those that survived a killed supervisor."""

    def __init__(self, path: Path, mark: str) -> None:
        self.path = path
        self.mark = mark
        self._births: dict[str, tuple[int, float]] = {}

    def add(self, name: str, pid: int) -> None:
        """Record a child's pid and start time. The pid alone could belong to another process later."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._births[name] = (pid, psutil.Process(pid).create_time())
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._births))
        new.replace(self.path)

    def clear(self) -> None:
        """Delete the record, once all children have ended."""
        self._births.clear()
        self.path.unlink(missing_ok=True)

    def end_survivors(self) -> list[str]:
        """End the processes that an earlier run left behind. Return their names. Blocks for a few seconds at most."""
        survivors = {process.pid: (name, process) for name, process in self._recorded()}
        for process in _marked(self.mark):
            survivors.setdefault(process.pid, (process.name(), process))
        end_all(process for _, process in survivors.values())
        self.clear()
        return sorted({name for name, _ in survivors.values()})

    def _recorded(self) -> Iterable[tuple[str, psutil.Process]]:
        try:
            recorded = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return
        for name, (pid, created_at) in recorded.items():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.create_time() == created_at and is_alive(process):
                    yield name, process


def _marked(mark: str) -> Iterable[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                yield process


def end_all(processes: Iterable[psutil.Process]) -> None:
    """Ask processes to stop, then kill those that remain. Blocks until they have ended."""
    remaining = list(processes)
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                stop(process)
        deadline = time.monotonic() + SURVIVOR_GRACE
        while (remaining := [process for process in remaining if is_alive(process)]) and time.monotonic() < deadline:
            time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process is running. Zombies count as ended: in a container nobody may reap them."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
