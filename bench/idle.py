"""Measure what the product costs while nobody uses it: `python -m bench.idle`, SECONDS=20.

Each loop of each process costs an operator for ever. Prints the CPU of each process, and the statements of all of them
by `pg_stat_statements`, for a second.
"""

import asyncio
import os
import tempfile
from pathlib import Path

import asyncpg

from bench.stage import BODY, OURS, Line, running_stage, spent, talk
from tests.helpers.waiting import eventually

SECONDS = float(os.environ.get("SECONDS", "20"))
SETTLE = 25.0  # seconds after the last message until all of its work is done, search included
PROCESSES = (*OURS, "inbound")

_STATEMENTS = r"""
select calls, total_exec_time * 1e3 / calls as cost, datname, left(regexp_replace(query, '\s+', ' ', 'g'), 90) as query
from pg_stat_statements join pg_database on pg_database.oid = dbid
where calls > 1 order by calls desc
"""


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_stage(Path(directory), talks=2_000) as stage:
            await stage.product.stop("postgres")
            stage.product.database_options["shared_preload_libraries"] = "pg_stat_statements"
            await stage.product.start("postgres")
            stage.conversations = await asyncpg.connect(stage.product.superuser_url)
            await stage.conversations.execute("create extension pg_stat_statements")
            await stage.product.start(*PROCESSES)
            async with Line(stage.product.ports["api"]) as line:
                for number in range(5):  # so that each process has worked
                    await line.reply(talk(number), BODY)
            await eventually(lambda: stage.sink.count() >= 5, deadline=60)
            await asyncio.sleep(SETTLE)
            before = await spent(stage, PROCESSES)
            await stage.conversations.execute("select pg_stat_statements_reset()")
            await asyncio.sleep(SECONDS)
            rows = await stage.conversations.fetch(_STATEMENTS)
            cpu = {
                name: (seconds - before.cpu[name]) * 1e3 / SECONDS
                for name, seconds in (await spent(stage, PROCESSES)).cpu.items()
            }
            details = ", ".join(f"{name} {used:.1f}" for name, used in cpu.items())
            print(f"a second costs {sum(cpu.values()):.0f} ms of CPU ({details})")
            print(f"and {sum(row['calls'] for row in rows) / SECONDS:.0f} statements, of these:")
            for row in rows:
                print(f"{row['calls'] / SECONDS:6.2f} x {row['cost']:5.0f} µs  {row['datname']:<14} {row['query']}")


if __name__ == "__main__":
    asyncio.run(main())
