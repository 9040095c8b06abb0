"""A real server of S3's protocol, which checks signatures: SeaweedFS, on one disk, with one bucket."""

import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from deploy.local.processes import Child, end, spawn
from deploy.local.readiness import accepts
from tests.helpers.waiting import eventually

ACCESS_KEY, SECRET_KEY = "key-of-tests", "secret-of-tests"


@dataclass(frozen=True)
class Bucket:
    """A bucket's URL for the settings."""

    url: str


@asynccontextmanager
async def running_s3(directory: Path) -> AsyncIterator[Bucket]:
    """Run the server while the context is open."""
    names = ("master", "volume", "filer", "s3")
    ports = free_ports([0] * 2 * len(names))
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "chats", "credentials": credentials, "actions": ["Read", "Write", "List", "Admin"]}
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    options = {
        **{f"{name}.port": port for name, port in zip(names, ports, strict=False)},
        **{f"{name}.port.grpc": port for name, port in zip(names, ports[len(names) :], strict=True)},
        "dir": directory,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "filer.localSocket": directory / "filer.sock",
        "s3": "true",
        "s3.config": config,
        "s3.localSocket": directory / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam": "false",
        "master.telemetry": "false",  # it would ask a server in the internet
        "master.volumeSizeLimitMB": 64,
        "volume.max": 8,
    }
    child = Child(
        name="s3",
        command=[
            Path(sys.executable).with_name("weed"),
            "server",
            *(f"-{name}={value}" for name, value in options.items()),
        ],
        log=directory / "s3.log",
        ready=accepts("127.0.0.1", ports[3]),
        directory=directory,
    )
    process = await spawn(child)
    try:
        await eventually(child.ready, deadline=30)
        yield Bucket(f"s3://chats/files?endpoint=http://127.0.0.1:{ports[3]}&region=us-east-1")
    finally:
        await end(process, signal.SIGKILL, 5.0)
        _remove_sockets(names, ports[len(names) :])


def _remove_sockets(names: Sequence[str], ports: Sequence[int]) -> None:
    """Remove what the server leaves in a fixed place."""
    for name, port in zip(names, ports, strict=True):
        Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108 - the server's own
