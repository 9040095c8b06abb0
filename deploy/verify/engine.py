"""Podman and podman-compose, with storage of their own, and the containers of the project."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.ports import free_ports

ROOT = Path(__file__).parents[2]
PODMAN = Path(__file__).with_name("podman")
UV = Path(sys.executable).with_name("uv")
COMPOSE = ("podman-compose==1.6.0",)
PROJECT = "chats-verify"
LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
# What podman prints because no systemd runs here.
NOISE = ("systemd", "syslog", "CNI config")


class VerificationError(Exception):
    """What was verified does not hold, or a program that it needs failed."""


def run(*command: str | Path, env: dict[str, str] | None = None, errors: bool = False) -> str:
    """Run a program and return its output, with `errors` also its standard error.

    Raises `VerificationError` with the end of both if the program fails.
    """
    result = subprocess.run(  # noqa: S603 - our own programs and arguments
        command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [
            line for line in (result.stdout + result.stderr).splitlines() if not any(map(line.__contains__, NOISE))
        ]
        raise VerificationError("\n".join([f"failed: {' '.join(map(str, command[:6]))} …", *lines[-15:]]))
    return result.stdout + (result.stderr if errors else "")


def tool(*command: str) -> str:
    """Run a program of a Python package, in an environment of its own."""
    return run(UV, "tool", "run", *command)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Return the first true result of a condition. Raises `VerificationError` after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise VerificationError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
    return result


@dataclass
class Engine:
    """Podman with its images and containers in `directory`, and the compose project that it runs."""

    directory: Path
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the configuration: limits that this machine allows, and the settings of the compose project."""
        self.directory.mkdir(exist_ok=True)
        hard = {name: min(16_384, resource.getrlimit(limit)[1]) for name, limit in LIMITS.items()}
        limits = [f'"{name}={value}:{value}"' for name, value in hard.items() if value > 0]
        (self.directory / "containers.conf").write_text(f"[containers]\ndefault_ulimits = [{', '.join(limits)}]\n")
        names = ("CHATS_PORT", "FLOWER_PORT", "MAILPIT_PORT", "CHATS_INBOUND_PORT")
        self.ports = dict(zip(names, free_ports(range(17_400, 17_404)), strict=True))
        settings = {
            **self.ports,
            "COMPOSE_PROFILES": "postgres,valkey,mailpit",
            "CHATS_SECRETS_DIR": self.secrets,
            "CHATS_EMAIL_DELAY_SECONDS": 1,
            "CHATS_DRAIN_SECONDS": 2,
            "CHATS_INBOUND_DOMAIN": "reply.example.com",
            "CHATS_LIMIT_ADMIN_MESSAGES_PER_MINUTE": 0,
        }
        (self.directory / "env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    @property
    def secrets(self) -> Path:
        """The directory of the secrets."""
        return self.directory / "secrets"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the `podman` in this folder reads."""
        storage, configuration = self.directory / "storage", self.directory / "containers.conf"
        return {"VERIFY_STORAGE": str(storage), "CONTAINERS_CONF": str(configuration)}

    def podman(self, *arguments: str | Path) -> str:
        """Run podman."""
        return run(PODMAN, *arguments, env=self.environment)

    def compose(self, *arguments: str) -> str:
        """Run podman-compose on the project's docker-compose.yml."""
        options = ("--podman-path", str(PODMAN), "--env-file", str(self.directory / "env"), "--project-name", PROJECT)
        return run(UV, "tool", "run", *COMPOSE, *options, *arguments, env=self.environment)

    def up(self, service: str, copies: int = 1) -> None:
        """Start a service in so many copies, as `docker compose up --no-deps --no-recreate` does."""
        self.compose("up", "-d", "--no-build", "--no-deps", "--no-recreate", "--scale", f"{service}={copies}", service)

    def containers(self, service: str = "") -> list[str]:
        """Return the names of the project's containers, or those of one service."""
        label = f"com.docker.compose.service={service}" if service else f"io.podman.compose.project={PROJECT}"
        return sorted(self.podman("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}").split())

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        """Return what podman knows about containers."""
        return list(json.loads(self.podman("inspect", *containers)))

    def state(self, container: str) -> dict[str, Any]:
        """Return a container's state."""
        return dict(self.inspect(container)[0]["State"])

    def logs(self, container: str) -> list[str]:
        """Return the lines that a container has logged."""
        return run(PODMAN, "logs", container, env=self.environment, errors=True).splitlines()

    def keep_logs(self) -> Path:
        """Write the logs of all containers into files, and return their directory."""
        directory = self.directory / "logs"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for container in self.containers():
            (directory / f"{container}.log").write_text("\n".join(self.logs(container)))
        return directory

    def wait_healthy(self, containers: Sequence[str]) -> None:
        """Wait until the containers' own health checks succeed."""
        if containers:
            self.podman("wait", "--condition=healthy", *containers)

    def kill(self, container: str) -> None:
        """Kill the container's first process, as a crash would. Podman does not take that for a wish to stop it."""
        os.kill(self.state(container)["Pid"], signal.SIGKILL)

    def remove(self, containers: Sequence[str]) -> None:
        """Stop and remove containers, as scaling down does."""
        if containers:
            self.podman("stop", "--time", "60", *containers)
            self.podman("rm", "--volumes", *containers)

    def down(self) -> None:
        """Remove the project's containers, networks and volumes."""
        self.compose("down", "--volumes", "--remove-orphans")

    def leftovers(self) -> list[str]:
        """Return the containers, networks and volumes that still exist."""
        networks = self.podman("network", "ls", "--format", "{{.Name}}").split()
        volumes = self.podman("volume", "ls", "--format", "{{.Name}}").split()
        return [*self.containers(), *(name for name in [*networks, *volumes] if name.startswith(PROJECT))]
