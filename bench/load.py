"""Load generators that cost little CPU themselves: wrk over HTTP, pgbench directly on PostgreSQL."""

import asyncio
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.postgres import WHEEL

PGBENCH = WHEEL / "pginstall" / "bin" / "pgbench"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Load:
    """The result of a load: responses per second, and the 99th percentile in milliseconds."""

    rate: float
    p99: float


def wrk_is_there() -> bool:
    """Return whether wrk is installed; Debian and Ubuntu have a package with that name."""
    return shutil.which("wrk") is not None


async def run_wrk(ports: Sequence[int], connections: int, seconds: float, script: Path, path: str = "/") -> Load:
    """Load the servers on these ports over `connections` in all, with a thread for each; all responses must be 2xx."""
    runs = [
        _output(
            *("wrk", "--latency", "-t1", f"-c{connections // len(ports)}", f"-d{math.ceil(seconds)}s", "-s", script),
            *(f"http://127.0.0.1:{port}{path}", "--", str(number)),
        )
        for number, port in enumerate(ports)
    ]
    outputs = await asyncio.gather(*runs)
    for output in outputs:
        if faults := re.findall(r"^ *(Non-2xx.*|Socket errors.*)$", output, re.MULTILINE):
            raise RuntimeError(f"wrk: {'; '.join(faults)}")
    p99 = max(_milliseconds(*_found(r"99% +([\d.]+)(us|ms|s)", output)) for output in outputs)
    return Load(sum(float(_found(r"Requests/sec: +([\d.]+)", output)[0]) for output in outputs), p99)


async def run_pgbench(url: str, connections: int, seconds: float, script: Path) -> Load:
    """Run an SQL script over this many connections, with prepared statements."""
    log = script.with_suffix(".latencies")
    output = await _output(
        *(PGBENCH, "--no-vacuum", "--protocol=prepared", f"--client={connections}", "--jobs=2"),
        *(f"--time={math.ceil(seconds)}", f"--file={script}", "--log", f"--log-prefix={log}", url),
    )
    latencies = []
    for part in script.parent.glob(f"{log.name}.*"):
        latencies += [int(line.split()[2]) for line in part.read_text().splitlines()]
        part.unlink()
    latencies.sort()
    return Load(float(_found(r"tps = ([\d.]+)", output)[0]), latencies[len(latencies) * 99 // 100] / 1e3)


async def _output(*command: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    if process.returncode:
        raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}: {output.strip()[:1000]}")
    return output


def _found(pattern: str, output: str) -> tuple[str, ...]:
    match = re.search(pattern, output)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in: {output}")
    return match.groups()


def _milliseconds(amount: str, unit: str) -> float:
    return float(amount) * _UNITS[unit]
