"""A RabbitMQ of the system's package, as processes that a test can start and kill."""

import asyncio
import os
import re
import shlex
import shutil
from pathlib import Path

from deploy.local.ports import free_ports
from deploy.local.processes import Child
from deploy.local.readiness import accepts

PROGRAMS = next(iter(sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))), None)
EPMD = shutil.which("epmd")  # Erlang's port mapper: RabbitMQ would start one that outlives it
USER, PASSWORD = "chats", "test"
DOCUMENT = Path(__file__).parents[3] / "docs" / "brokers.md"


class RabbitMQ:
    """A node with its data in a directory. `grant` restricts its user, once it runs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._port, self._mapper_port, distribution = free_ports([0, 0, 0])
        self.url = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self._port}//"
        configuration = directory / "rabbitmq.conf"
        configuration.write_text(f"default_user = {USER}\ndefault_pass = {PASSWORD}\n")
        (directory / "plugins").write_text("[].")
        self._environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {
            "HOME": str(directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_CONFIG_FILE": str(configuration.with_suffix("")),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_NODENAME": f"chats-{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
        }

    def node(self) -> Child:
        """Describe the node."""
        return self._child("rabbitmq", f"{PROGRAMS}/rabbitmq-server", port=self._port)

    def mapper(self) -> Child:
        """Describe Erlang's port mapper, which must run before the node."""
        return self._child("epmd", str(EPMD), port=self._mapper_port)

    async def grant(self) -> None:
        """Give the user the permissions in the document."""
        # RabbitMQ 3.10 exchanges `default_permissions.read` and `.write` of its configuration file.
        [patterns] = re.findall(r"^rabbitmqctl set_permissions -p / chats (.+)$", DOCUMENT.read_text(), re.MULTILINE)
        await self.control("set_permissions", "-p", "/", USER, *shlex.split(patterns))

    async def control(self, *arguments: str) -> None:
        """Run `rabbitmqctl`."""
        command = [f"{PROGRAMS}/rabbitmqctl", "--quiet", *arguments]
        process = await asyncio.create_subprocess_exec(*command, env=self._environment)
        assert await process.wait() == 0, arguments

    def _child(self, name: str, program: str, *, port: int) -> Child:
        return Child(
            name=name,
            command=[program],
            log=self._directory / f"{name}.log",
            ready=accepts("127.0.0.1", port),
            environment=self._environment,
        )
