"""Debian's mail servers and programs, unpacked by `tests/real_mail/unpack`, as processes of a test."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TREE = Path("/var/cache/chats-real-mail")
_LIBRARIES = [str(path) for base in ("usr/lib", "lib") for path in (TREE / base).glob("*-linux-gnu*")]
ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""),
    "LD_LIBRARY_PATH": ":".join([*_LIBRARIES, f"{TREE}/usr/lib/dovecot", f"{TREE}/usr/lib/postfix"]),
    "LC_ALL": "C.UTF-8",
}
START_SECONDS = STOP_SECONDS = 30

IS_DEBIAN = shutil.which("apt-get") is not None
IS_ROOT = os.geteuid() == 0  # the servers change to users of their own
MISSING = (
    None
    if (TREE / "complete").exists() and IS_ROOT
    else "needs Debian's mail servers: as root, run tests/real_mail/unpack"
)


@contextmanager
def running(
    command: Sequence[str | Path], ports: Sequence[int], log: Path, environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[None]:
    """Run a server that stays in the foreground, from when it listens at all ports; stop it by its id."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the system
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            for port in ports:
                _wait_for(port)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def set_owner(path: Path, user: str, mode: int = 0o700) -> Path:
    """Create a directory of a user."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    shutil.chown(path, user)
    return path
