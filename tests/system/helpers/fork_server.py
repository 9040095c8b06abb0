"""Forks processes of the product from one that has imported all of it. `forks.py` starts this program and asks it."""

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import httpx2

from deploy.local.processes import die_with_parent
from tests.helpers.certificates import share_certificates

READY = "ready"
MODULES = (
    "deploy.cli",
    "deploy.commands.emails",
    "deploy.commands.importing",
    "deploy.commands.operations",
    "deploy.commands.status",
    "services.conversations.app",
    "services.conversations.demo.load",
    "services.conversations.jobs",
    "services.conversations.thumbnails",
    "services.conversations.relay",
    "services.notifications.app",
    "services.notifications.inbound_process",
    "services.notifications.sweeper",
    "services.notifications.worker",
    "shared.database.migrations",
)
"""What processes import, also when a command is called."""


def main() -> None:
    """Serve requests at a Unix socket. Each process that is forked returns from `serve`, and becomes what is asked."""
    for module in MODULES:
        importlib.import_module(module)
    share_certificates()
    httpx2.create_ssl_context(trust_env=False)  # as for the product's own services
    gc.collect()
    gc.freeze()  # otherwise the first collection of each process copies all memory
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        print(READY, flush=True)  # noqa: T201 - the log
        command, log, environment = serve(listener)
    become(command, Path(log), environment)


def serve(listener: socket.socket) -> tuple[list[str], str, dict[str, str]]:
    """Fork a process for each connection, with a parent that reports its id and how it ended; return its request."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets the parents that have ended
    while True:
        connection, _ = listener.accept()
        with connection:
            if os.fork():
                continue
            die_with_parent(signal.SIGKILL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            command, log, environment = json.loads(connection.makefile().readline())
            if (pid := os.fork()) == 0:
                die_with_parent(signal.SIGKILL)
                return command, log, environment
            connection.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)


def become(command: list[str], log: Path, environment: dict[str, str]) -> None:
    """Turn this process into what `python -m module …` would be."""
    os.setsid()
    with log.open("ab") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    os.environ.clear()
    os.environ.update(environment)
    _, _, module, *arguments = sys.orig_argv[:] = command
    sys.argv[:] = [module, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
