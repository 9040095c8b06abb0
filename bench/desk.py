"""Measure the product as other help desks were measured: `python -m bench.desk`, SECONDS=10, ROUNDS=5.

Eight clients, a new connection for each request, 20,000 existing conversations, email on and due at once: how many
conversations are created, replies posted, first pages of the list and whole threads read per second, and how long after
the last reply the last email is out. On two such cores the best of Request Tracker 5, django-helpdesk, Roundup and
Redmine reached 58, 64, 30 and 65 per second. A bare insert by pgbench over as many connections, in turn with them,
shows the machine's speed.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.load import run_pgbench, run_wrk, wrk_is_there
from bench.stage import BODY, CUSTOMERS, Stage, running_stage
from tests.helpers.waiting import eventually
from tests.system.helpers.product import headers_of

SECONDS = float(os.environ.get("SECONDS", "10"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLIENTS = 8
TALKS = 20_000
APIS = ("api", "api-2")[: os.cpu_count()]
OTHERS = {"creates": 58, "replies": 64, "lists": 30, "threads": 65}
TALK = "/api/v1/admin/conversations/00000000-0000-7000-8000-%012d/messages"
REQUESTS = {
    "creates": ("POST", "/api/v1/conversations", {"subject": "Where is my parcel?", "body": BODY}),
    "replies": ("POST", TALK, {"body": BODY}),
    "lists": ("GET", "/api/v1/admin/conversations", None),
    "threads": ("GET", TALK, None),
}


async def main() -> None:
    """Measure and print."""
    if not wrk_is_there():
        raise SystemExit("wrk, which makes the load, is not installed; on Debian: apt install wrk")
    with tempfile.TemporaryDirectory() as directory:
        async with running_stage(Path(directory), talks=TALKS) as stage:
            await stage.conversations.execute("create table yardstick (id bigserial primary key, body text)")
            await stage.product.start(*APIS, "relay", "worker", "sweeper")
            inserts: list[float] = []
            rates: dict[str, list[float]] = {name: [] for name in REQUESTS}
            delays: list[float] = []
            for _ in range(ROUNDS):
                inserts.append(await _inserts(stage))
                for name in REQUESTS:
                    rates[name].append(await _rate(stage, name))
                    if name == "replies":
                        delays.append(await _until_emails_are_out(stage))
    for name, measured in rates.items():
        rate = statistics.median(measured)
        print(f"{name:<8} {rate:6.0f} a second, {rate / OTHERS[name]:.1f} times {OTHERS[name]}")
    print(f"the last email was out {statistics.median(delays):.1f} s after the last reply")
    print(f"bare inserts by pgbench, {CLIENTS} connections: {statistics.median(inserts):.0f} a second")


async def _inserts(stage: Stage) -> float:
    script = stage.product.directory / "insert.sql"
    script.write_text(f"insert into yardstick (body) values ('{BODY}');\n")  # noqa: S608 - a text of ours
    url = f"{stage.product.superuser_url.removesuffix('/postgres')}/conversations"
    return (await run_pgbench(url, CLIENTS, SECONDS / 2, script)).rate


async def _rate(stage: Stage, name: str) -> float:
    script = stage.product.directory / f"{name}.lua"
    script.write_text(_lua(*REQUESTS[name]))
    ports = [stage.product.ports[api] for api in APIS]
    rate = (await run_wrk(ports, CLIENTS, SECONDS, script)).rate
    print(f"  {name} {rate:.0f}", flush=True)
    return rate


async def _until_emails_are_out(stage: Stage) -> float:
    """Wait until no admin's message waits for its email; return the seconds that took."""
    begun = time.monotonic()
    posted = await stage.conversations.fetchval("select count(*) from messages where sender_role = 'admin'")
    await eventually(lambda: _are_out(stage, posted), deadline=600)
    waited = time.monotonic() - begun
    print(f"  emails out after {waited:.1f} s", flush=True)
    return waited


async def _are_out(stage: Stage, posted: int) -> bool:
    return int(await stage.notifications.fetchval(_OUT)) >= posted


_OUT = """
select count(*) from email_messages join emails on emails.id = email_id where state not in ('scheduled', 'sending')
"""


def _lua(method: str, path: str, content: dict[str, str] | None) -> str:
    """Return wrk's script: a random conversation for each request, by an admin or a random customer."""
    subs = [f"C-{number}" for number in range(CUSTOMERS // 10)] if path == "/api/v1/conversations" else ["sam"]
    tokens = ",\n".join(
        f'"{headers_of(sub, "customer" if len(subs) > 1 else "admin")["Authorization"]}"' for sub in subs
    )
    body = "nil" if content is None else json.dumps(json.dumps(content))
    return f"""
local tokens, body = {{{tokens}}}, {body}
function init(arguments)
    math.randomseed(os.time() + tonumber(arguments[1]))
end
function request()
    return wrk.format("{method}", string.format("{path}", math.random(0, {TALKS - 1})), {{
        ["Authorization"] = tokens[math.random(#tokens)],
        ["Content-Type"] = "application/json",
        ["Connection"] = "close",
    }}, body)
end
"""


if __name__ == "__main__":
    asyncio.run(main())
