"""Attribute the bytes of PostgreSQL's write-ahead log to tables."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

# The part of a record that belongs to no block is attributed to its first block.
_WRITTEN = """
with blocks as (
    select relfilenode, block_id, record_length, block_data_length as data, block_fpi_length as page,
        sum(block_data_length + block_fpi_length) over record as inside, min(block_id) over record as first
    from pg_get_wal_block_info($1, $2, false) window record as (partition by start_lsn)
)
select relfilenode, sum(page)::bigint as pages,
    sum(data + case when block_id = first then record_length - inside else 0 end)::bigint as changes
from blocks group by relfilenode
"""
_NAMES = """
select pg_relation_filenode(file.oid), coalesce(owner.relname, parent.relname)
from pg_class as file left join pg_index on indexrelid = file.oid
    join pg_class as parent on parent.oid = coalesce(indrelid, file.oid)
    left join pg_class as owner on owner.reltoastrelid = parent.oid
where pg_relation_filenode(file.oid) is not null and parent.relnamespace <> 'pg_catalog'::regnamespace
"""


@dataclass(frozen=True)
class Written:
    """Bytes written for a table, its indexes and its large values: changes, and whole pages.

    A page is written whole with its first change after a checkpoint.
    """

    changes: int
    pages: int


async def log_position(connection: "asyncpg.Connection[Any]") -> Any:
    """Return the end of the log."""
    return await connection.fetchval("select pg_current_wal_flush_lsn()")


async def written_since(connections: "Iterable[asyncpg.Connection[Any]]", position: str) -> Mapping[str, Written]:
    """Return the bytes written since `position` by table; `connections` are a superuser's, one to each database."""
    names: dict[int, str] = {}
    for connection in connections:
        names |= dict(await connection.fetch(_NAMES))
    await connection.execute("create extension if not exists pg_walinspect")
    changes: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    for row in await connection.fetch(_WRITTEN, position, await log_position(connection)):
        name = names.get(row["relfilenode"], "the catalogue")
        changes[name] += row["changes"]
        pages[name] += row["pages"]
    return {name: Written(changes[name], pages[name]) for name, _ in (changes + pages).most_common()}
