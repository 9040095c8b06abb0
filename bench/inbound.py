"""Measure replies by email against a bare aiosmtpd: `python -m bench.inbound`, EMAILS, ROUNDS, CONNECTIONS, LARGE.

The sink is aiosmtpd's own LMTP server, which keeps nothing. Each round delivers emails of 5 KB to it until it has
accepted all, and to `chats inbound` until all are messages: *both*, the figure that counts. Every other round does so
in the other order. Then it measures the halves alone: *accepted* while nothing posts them, and *posted* from then on.
It prints rates, their ratios, and the CPU of each process for an email. Last, the memory that emails of 30 MiB take.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from uuid import UUID

import psutil
from aiosmtpd.lmtp import LMTP

from bench.sink import running_module
from bench.stage import Spent, Stage, running_stage, spent, talk
from deploy.local.ports import free_ports
from services.notifications.mail.fingerprints import fingerprint
from services.notifications.mail.reply_addresses import make_reply_address, read_reply_token

EMAILS = int(os.environ.get("EMAILS", "500"))
ROUNDS = int(os.environ.get("ROUNDS", "6"))
CONNECTIONS = int(os.environ.get("CONNECTIONS", "8"))
TALKS = 5_000  # each takes 20 emails an hour
LARGE_EMAILS = int(os.environ.get("LARGE", "5"))
DOMAIN, SECRET = "in.bench.test", "the secret of the benchmark of emails"
OURS = "Your parcel left our warehouse this morning. It should be with you on Thursday. Ask us whenever you like! " * 4
THEIRS = "Thank you. On Thursday nobody is at home, so please leave it with the neighbour at number nine. " * 6

_PREPARE = """
with sent as (
    insert into emails (id, audience, recipient_id, conversation_id, subject, state, due_at, next_attempt_at,
        to_address, claimed_at, finished_at)
    select *, now(), now()
    from unnest($1::uuid[], array_fill('customer'::text, $6::int[]), $2::text[], $3::uuid[],
        array_fill('Where is my parcel?'::text, $6::int[]), array_fill('sent'::text, $6::int[]),
        array_fill(now(), $6::int[]), array_fill(now(), $6::int[]), $4::text[]) as each
)
insert into reply_addresses (email_id, token_hash, newest_number, fingerprints, expires_at)
select id, hash, 1, $7::bytea, now() + interval '90 days' from unnest($1::uuid[], $5::bytea[]) as each (id, hash)
"""
_PEOPLE = """
insert into people (id, version, name, email)
select 'C-' || n, 1, 'Customer ' || n, 'c-' || n || '@customer.test' from generate_series(0, $1 - 1) n
"""
# New emails are due at once, or tomorrow while the sequence is 1. A change of the table would have all plans made anew.
_PAUSABLE = """
create sequence bench_paused minvalue 0;
grant select on sequence bench_paused to public;
select setval('bench_paused', 0);
alter table inbound_emails alter next_attempt_at
    set default now() + pg_sequence_last_value('bench_paused'::regclass) * interval '1 day'
"""
_PAUSE = "select setval('bench_paused', 1)"
_RESUME = """
select setval('bench_paused', 0);
update inbound_emails set next_attempt_at = now() where state = 'received'
"""
_POSTED = "select count(*) from inbound_emails where state = 'posted'"
_WAITING = "select count(*) from inbound_emails where state = 'received'"


def email_id(number: int) -> UUID:
    """Return the id of the email that a conversation's customer answers."""
    return UUID(f"00000000-0000-7000-8002-{number:012}")


def address(number: int) -> str:
    """Return the address for replies of a conversation."""
    return make_reply_address(SECRET, email_id(number), DOMAIN)[0]


def reply(number: int, talk_number: int) -> bytes:
    """Return a reply as mail programs write it, of 5 KB: with a quote, as text and as HTML."""
    message = EmailMessage(policy=SMTP)
    message["From"] = f"Customer <c-{talk_number}@customer.test>"
    message["To"] = f"Store <{address(talk_number)}>"
    message["Subject"] = "Re: Where is my parcel?"
    message["Message-ID"] = f"<{number}.{time.time_ns()}@customer.test>"
    message["Date"] = "Sun, 29 Nov 2026 20:00:00 +0000"
    introduction = f"On Sun, 29 Nov 2026 at 19:00, Store <{address(talk_number)}> wrote:"
    quoted = "\n".join(f"> {line}" for line in OURS.replace(". ", ".\n").splitlines())
    message.set_content(f"{THEIRS}\n\n{introduction}\n{quoted}\n")
    quote = f"<div class='gmail_quote'><div>{introduction}</div><blockquote>{OURS}</blockquote></div>"
    message.add_alternative(f"<div>{THEIRS}</div><br>{quote}", subtype="html")
    return message.as_bytes()


@dataclass(frozen=True)
class Delivery:
    """An email on its way."""

    sender: str
    to: str
    content: bytes


async def deliver(port: int, deliveries: Sequence[Delivery]) -> float:
    """Deliver emails over some connections, as a mail server does; return the seconds."""
    left = list(reversed(deliveries))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def say(line: bytes, expected: bytes) -> None:
            writer.write(line)
            while (answer := await reader.readline())[3:4] == b"-":
                pass
            assert answer.startswith(expected), answer

        await say(b"", b"220")
        await say(b"LHLO bench\r\n", b"250")
        while left:
            email = left.pop()
            await say(f"MAIL FROM:<{email.sender}>\r\n".encode(), b"250")
            await say(f"RCPT TO:<{email.to}>\r\n".encode(), b"250")
            await say(b"DATA\r\n", b"354")
            await say(email.content + b"\r\n.\r\n", b"250")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return time.perf_counter() - began


def deliveries(first: int) -> list[Delivery]:
    """Return the emails of a round, over all conversations."""
    numbers = [(number, number % TALKS) for number in range(first, first + EMAILS)]
    return [Delivery(f"c-{t}@customer.test", address(t), reply(number, t)) for number, t in numbers]


@contextlib.asynccontextmanager
async def running_sink(directory: Path) -> AsyncIterator[tuple[int, psutil.Process]]:
    """Run the bare aiosmtpd as a process; yield its port and the process."""
    async with running_module("bench.inbound", "sink", log=directory / "aiosmtpd.log") as (port, process_id):
        yield port, psutil.Process(process_id)


def serve_sink(port: int) -> None:
    """Serve LMTP by aiosmtpd, and keep nothing."""

    class Nothing:
        async def handle_DATA(self, *_: object) -> str:  # noqa: N802 - aiosmtpd's name
            return "250 OK"

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: LMTP(Nothing()), "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


async def prepare(stage: Stage) -> None:
    """Make the emails that are answered."""
    ids = [email_id(number) for number in range(TALKS)]
    people = [f"C-{number}" for number in range(TALKS)]
    tokens = [read_reply_token(address(number).partition("@")[0]) for number in range(TALKS)]
    hashes = [token.hash for token in tokens if token is not None]
    to = [f"c-{number}@customer.test" for number in range(TALKS)]
    talks = [UUID(talk(number)) for number in range(TALKS)]
    await stage.notifications.execute(_PREPARE, ids, people, talks, to, hashes, [TALKS], fingerprint([OURS]))
    await stage.notifications.execute(_PEOPLE, TALKS)
    await stage.notifications.execute(_PAUSABLE)
    await stage.notifications.execute("vacuum analyze")


def used(process: psutil.Process) -> float:
    """Return the CPU seconds of a process."""
    times = process.cpu_times()
    return times.user + times.system


async def posted(stage: Stage) -> float:
    """Wait until all emails are posted; return the seconds."""
    began = time.perf_counter()
    while await stage.notifications.fetchval(_WAITING):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)
    return time.perf_counter() - began


def memory(process: psutil.Process) -> dict[str, int]:
    """Return a process's memory now and at most, in bytes."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


async def measure_memory(stage: Stage, port: int) -> None:
    """Print what emails of 30 MiB take above the idle process, each by itself."""
    process = stage.product.family("inbound")[0]
    for number in range(LARGE_EMAILS):
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"] = f"c-{number}@customer.test", address(number)
        message["Message-ID"] = f"<large.{number}@customer.test>"
        message.set_content("Two pictures.")
        for name in ("a.bin", "b.bin"):
            content = os.urandom(11 * 2**20)
            message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
        content = message.as_bytes()
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # noqa: ASYNC240 - of memory; forgets the peak
        idle = memory(process)["VmRSS"]
        await deliver(port, [Delivery(f"c-{number}@customer.test", address(number), content)])
        taken = memory(process)["VmHWM"]
        await posted(stage)
        peak = memory(process)["VmHWM"]
        shares = [(value - idle) / len(content) for value in (taken, peak)]
        print(
            f"{len(content) / 2**20:.1f} MiB above {idle / 2**20:.0f}: accepted {shares[0]:.2f},"
            f" posted {shares[1]:.2f} times its size"
        )


async def main() -> None:
    """Measure and print."""
    [port] = free_ports([0])
    settings = {
        "CHATS_INBOUND_DOMAIN": DOMAIN,
        "CHATS_INBOUND_SECRET": SECRET,
        "CHATS_INBOUND_LISTEN": f"lmtp://127.0.0.1:{port}",
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with (
            running_sink(directory) as (sink_port, sink),
            running_stage(directory, talks=TALKS, **settings) as stage,
        ):
            await prepare(stage)
            await stage.product.start("api", "inbound")
            await deliver(port, deliveries(0)[:50])
            await posted(stage)
            ratios: dict[str, list[float]] = {"both": [], "accepted": [], "posted": []}
            for number in range(ROUNDS):
                await run_round(stage, (port, sink_port, sink), number, ratios)
            print("median ratios:", ", ".join(f"{what} {statistics.median(all_):.2f}" for what, all_ in ratios.items()))
            await measure_memory(stage, port)


async def run_round(
    stage: Stage, servers: tuple[int, int, psutil.Process], number: int, ratios: dict[str, list[float]]
) -> None:
    """Deliver to both, and print."""
    port, sink_port, sink = servers

    async def to_sink() -> tuple[float, str]:
        before = used(sink)
        seconds = await deliver(sink_port, deliveries(2 * number * EMAILS))
        return seconds, f"{(used(sink) - before) * 1e3 / EMAILS:.2f} ms"

    async def to_chats() -> tuple[float, str]:
        emails, before = deliveries(2 * number * EMAILS), await spent(stage, ("api", "inbound"))
        seconds = await deliver(port, emails) + await posted(stage)
        return seconds, costs(await spent(stage, ("api", "inbound")), before)

    if number % 2:
        whole, bare = await to_chats(), await to_sink()
    else:
        bare, whole = await to_sink(), await to_chats()
    emails = deliveries((2 * number + 1) * EMAILS)
    before = await stage.notifications.fetchval(_POSTED)
    await stage.notifications.execute(_PAUSE)
    first = await spent(stage, ("inbound",))
    accepted = await deliver(port, emails)
    accepting = costs(await spent(stage, ("inbound",)), first)
    async with stage.notifications.transaction():  # what it costs is not counted
        await stage.notifications.execute(_RESUME)
        second = await spent(stage, ("api", "inbound"))
    waited = await posted(stage)
    posting = costs(await spent(stage, ("api", "inbound")), second)
    assert await stage.notifications.fetchval(_POSTED) == before + EMAILS
    print(f"sink {EMAILS / bare[0]:.0f}/s, {bare[1]}")
    for what, seconds, cpu in (("both", *whole), ("accepted", accepted, accepting), ("posted", waited, posting)):
        ratios[what].append(bare[0] / seconds)
        print(f"  {what} {EMAILS / seconds:.0f}/s = {bare[0] / seconds:.2f}; {cpu}", flush=True)


def costs(now: Spent, before: Spent) -> str:
    """Return the CPU of each process for an email."""
    cpu, _ = now.per(before, EMAILS)
    return ", ".join(f"{name} {ms:.2f}" for name, ms in cpu.items() if name != "broker")


if __name__ == "__main__":
    if sys.argv[1:2] == ["sink"]:
        serve_sink(int(sys.argv[2]))
    else:
        asyncio.run(main())
