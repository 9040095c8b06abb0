"""Measure posting over HTTP against the database's own limit: `python -m bench.posting`, SECONDS=5, ROUNDS=5.

Customers' `POST …/messages` with token, validation, idempotency key, log row and rate limit (high, but counted), with
as many API processes as the machine has cores, and wrk as the load; then the same by browsers' sessions. The yardstick,
alternating in the same run, is pgbench with the same statement, prepared, on the same rows, over as many connections.
"""

import asyncio
import json
import os
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from bench.load import Load, run_pgbench, run_wrk, wrk_is_there
from services.conversations.messaging.posting_sql import POST
from shared.auth.tokens import issue_session_token
from shared.settings import Role, TokenSettings
from shared.text import preview
from tests.system.helpers.product import SECRET, Product, headers_of, running_product

SECONDS = float(os.environ.get("SECONDS", "5"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CONNECTIONS = (16, 64)
CUSTOMERS, TALKS = 1_000, 10_000
BODY = "Your parcel left our warehouse this morning and should be with you on Thursday. " * 3
PATH = "/api/v1/conversations/00000000-0000-7000-8000-%012d/messages"

_PREPARE = f"""
insert into users (id, role, name, email, synced_at)
select 'C-' || n, 'customer', 'C-' || n, 'C-' || n || '@customer.test', now()
from generate_series(0, {CUSTOMERS - 1}) as n;
insert into conversations
    (id, user_id, subject, status, is_read_by_admin, is_read_by_user, created_at, last_activity_at, changed_at)
select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'C-' || n % {CUSTOMERS}, 'Where is my parcel?',
    'OPEN', false, true, now(), now(), now()
from generate_series(0, {TALKS - 1}) as n;
insert into sessions (id, user_id, role, csrf)
select ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid, 'C-' || n, 'customer', 'csrf'
from generate_series(0, {CUSTOMERS - 1}) as n;
"""  # noqa: S608 - numbers of ours


async def main() -> None:
    """Print each round, and the medians."""
    if not wrk_is_there():
        raise SystemExit("wrk, which makes the load, is not installed; on Debian: apt install wrk")
    with tempfile.TemporaryDirectory() as name:
        async with running_product(Path(name), CHATS_LIMIT_MESSAGES_PER_MINUTE="1000000") as product:
            await _prepare(product)
            names = ["api", "api-2"][: os.cpu_count()]
            await product.start(*names)
            for connections in CONNECTIONS:
                await _compare(product, names, connections)


async def _prepare(product: Product) -> None:
    connection = await asyncpg.connect(product.owner_urls["conversations"])
    await connection.execute(_PREPARE)
    await connection.execute("vacuum analyze")
    await connection.close()
    (product.directory / "post.sql").write_text(_sql())


async def _compare(product: Product, names: list[str], connections: int) -> None:
    url = product.environment["CHATS_CONVERSATIONS_DATABASE_URL"]
    ports = [product.ports[name] for name in names]
    sql, by_token, by_session = (product.directory / name for name in ("post.sql", "token.lua", "session.lua"))
    by_token.write_text(
        _lua("Authorization", [headers_of(f"C-{n}", "customer")["Authorization"] for n in range(CUSTOMERS)])
    )
    by_session.write_text(_lua("Cookie", [_cookie(n) for n in range(CUSTOMERS)]))
    for script in (by_token, by_session):  # warm up connections and caches
        await run_wrk(ports, connections, SECONDS, script)
    loads: dict[str, list[Load]] = {"pgbench": [], "by token": [], "by session": []}
    scripts = [("by token", by_token), ("by session", by_session)]
    for _ in range(ROUNDS):
        loads["pgbench"].append(await run_pgbench(url, connections, SECONDS, sql))
        for what, script in scripts:
            loads[what].append(await run_wrk(ports, connections, SECONDS, script))
        scripts.reverse()
        print("  " + ", ".join(f"{what} {ours[-1].rate:.0f}/s" for what, ours in loads.items()), flush=True)
    for what, ours in loads.items():
        rate, p99 = (statistics.median(getattr(load, name) for load in ours) for name in ("rate", "p99"))
        ratio = statistics.median(own.rate / bare.rate for own, bare in zip(ours, loads["pgbench"], strict=True))
        print(f"{connections} connections, {what:10}  {rate:6.0f} posts/s, p99 {p99:5.1f} ms, ratio {ratio:.2f}")


def _cookie(customer: int) -> str:
    settings, session = TokenSettings(auth_secret=[SecretStr(SECRET)]), UUID(f"00000000-0000-7000-9000-{customer:012}")
    return f"chats={issue_session_token(settings, f'C-{customer}', Role.CUSTOMER, session, 'csrf')}"


def _lua(header: str, values: Sequence[str]) -> str:
    """Return wrk's script: a random conversation, its customer's value of a header, and a new key for each post."""
    quoted = ",\n".join(f'"{value}"' for value in values)
    return f"""
local values = {{{quoted}}}
local body = {json.dumps(json.dumps({"body": BODY}))}
local sent, run
function init(arguments)
    sent, run = 0, arguments[1] .. "-" .. os.time()
    math.randomseed(os.time() + tonumber(arguments[1]))
end
function request()
    local talk = math.random(0, {TALKS - 1})
    sent = sent + 1
    return wrk.format("POST", string.format("{PATH}", talk), {{
        ["{header}"] = values[talk % {CUSTOMERS} + 1],
        ["X-CSRF-Token"] = "csrf",
        ["Content-Type"] = "application/json",
        ["Idempotency-Key"] = run .. "-" .. sent,
    }}, body)
end
"""


def _sql() -> str:
    """Return pgbench's script."""
    talk = "('00000000-0000-7000-8000-' || lpad(:talk::int::text, 12, '0'))::uuid"
    return f"\\set talk random(0, {TALKS - 1})\n" + script_of(talk, f"('C-' || :talk::int % {CUSTOMERS})")


def script_of(conversation: str, customer: str) -> str:
    """Return pgbench's script of the application's statement, with its arguments inlined."""
    arguments = [
        conversation,
        customer,
        customer,
        "'customer'",
        f"'{BODY.strip()}'",
        f"'{preview(BODY)}'",
        *("null", "null", "null"),
        "(:client_id::text || '-' || :key::text || '-' || clock_timestamp())",
        f"'{'0' * 64}'",
        *("false", "'web'"),
    ]
    statement = re.sub(r"\$(\d+)", lambda found: arguments[int(found[1]) - 1], POST[False])
    statement = re.sub(r"--.*", "", statement)
    return f"\\set key random(0, 1000000000)\n{statement.strip()};\n"


if __name__ == "__main__":
    asyncio.run(main())
