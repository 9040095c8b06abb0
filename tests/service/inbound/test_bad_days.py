"""Bad days of emails that come in, each with the outcome that docs/guarantees.md states."""

import asyncio
import os
import smtplib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from deploy.local.postgres import Server
from tests.service.inbound.rig import Rig

MB = 1_000_000
TEXT = "The large one."

LINE = b"A" * 76 + b"\r\n"  # of a file in base64

Make = Callable[[EmailMessage], EmailMessage | bytes]


def with_files(message: EmailMessage, count: int, size: int) -> bytes:
    """Add files without the cost of encoding them."""
    text, boundary = message.get_content().encode(), b"b1"
    del message["Content-Type"], message["Content-Transfer-Encoding"]
    head = message.as_bytes().partition(b"\r\n\r\n")[0]
    head += b"\r\nContent-Type: multipart/mixed; boundary=" + boundary + b"\r\n"
    parts = [b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + text]
    for number in range(count):
        name = f"{number}.bin".encode()
        fields = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
        fields += b"Content-Disposition: attachment; filename=" + name + b"\r\n\r\n"
        parts.append(fields + LINE * max(1, size // 57))
    return b"".join(
        [head, *(b"\r\n--" + boundary + b"\r\n" + part for part in parts), b"\r\n--" + boundary + b"--\r\n"]
    )


def nested(message: EmailMessage, depth: int) -> bytes:
    """Wrap the text in so many multiparts."""
    part: bytes = b"Content-Type: text/plain\r\n\r\n" + message.get_content().encode()
    for level in range(depth):
        boundary = b"level-%d" % level
        kind = b"Content-Type: multipart/mixed; boundary=" + boundary + b"\r\n\r\n"
        part = kind + b"--" + boundary + b"\r\n" + part + b"\r\n--" + boundary + b"--\r\n"
    del message["Content-Type"], message["Content-Transfer-Encoding"]
    head: bytes = message.as_bytes().partition(b"\r\n\r\n")[0]
    return head + b"\r\n" + part


def dated(message: EmailMessage, date: str) -> EmailMessage:
    message["Date"] = date
    return message


def without(message: EmailMessage, *names: str) -> EmailMessage:
    for name in names:
        del message[name]
    return message


# By name: the email, the state of its row with the reason, and how many files its message has.
ODD: dict[str, tuple[Make, tuple[str, str | None], int]] = {
    "30 MB": (lambda email: with_files(email, 2, 11 * MB), ("posted", None), 2),
    "a file over the limit": (lambda email: with_files(email, 1, 21 * 2**20), ("posted", "files-left-out"), 0),
    "500 attachments": (lambda email: with_files(email, 500, 10), ("posted", "files-left-out"), 10),
    "nested twenty deep": (lambda email: nested(email, 20), ("posted", None), 0),
    "a date in 1970": (lambda email: dated(email, "Thu, 01 Jan 1970 00:00:00 +0000"), ("posted", None), 0),
    "a date in 2099": (lambda email: dated(email, "Thu, 01 Jan 2099 00:00:00 +0000"), ("posted", None), 0),
    "a date that is none": (lambda email: dated(email, "yesterday"), ("posted", None), 0),
    "no Message-ID": (lambda email: without(email, "Message-ID"), ("posted", None), 0),
    "hardly a header": (lambda email: without(email, "Message-ID", "To", "MIME-Version"), ("posted", None), 0),
    "bare line feeds": (lambda email: email.as_bytes().replace(b"\r\n", b"\n"), ("posted", None), 0),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_email_that_arrives_twice_is_one_message_of_now(rig: Rig, name: str) -> None:
    make, state, files = ODD[name]
    await rig.send_email()
    email = make(rig.reply(TEXT))
    assert await rig.deliver(email) is None
    assert await rig.deliver(email) is None
    while await rig.post():
        pass
    assert await rig.states() == [state]
    [message] = await rig.messages()
    assert (message["body"].strip(), len(message["attachments"])) == (TEXT, files)
    age = datetime.now(UTC) - datetime.fromisoformat(message["created_at"])
    assert abs(age) < timedelta(hours=1)


@pytest.mark.parametrize("writer", ["ben", "anna"])
async def test_an_address_of_another_persons_email_holds_what_comes(rig: Rig, writer: str) -> None:
    """Ben writes to Anna's address, which she has forwarded, or Anna to Ben's."""
    await rig.send_email()
    address = rig.address
    if writer == "anna":
        await rig.run("update people set email = 'ben@customer.test' where id = 'anna'")
        await rig.run("update emails set to_address = 'ben@customer.test'")
    sender = f"{writer}@customer.test"
    assert await rig.deliver(rig.reply(From=sender), address, sender=sender) is None
    await rig.post()
    assert await rig.states() == [("held", "other-sender")]
    assert await rig.messages() == []


async def test_two_programs_that_answer_each_other_for_an_hour_end_in_the_held_emails(rig: Rig) -> None:
    """A customer's, that says nothing of being one, and the store's, that answers by the API."""
    await rig.send_email("Thank you for your message. We will answer soon.")
    for minute in range(60):
        answer = rig.reply("I am in the mountains.", **{"Message-ID": f"<{minute}@customer.test>"})
        await rig.deliver(answer)
        before = len(await rig.messages())
        await rig.post()
        if len(await rig.messages()) == before:
            break
        await rig.run("update emails set state = 'sent', finished_at = now(), lease_id = null, lease_until = null")
        await rig.send_email("Thank you for your message. We will answer soon.")
    assert len(await rig.messages()) == 20
    assert await rig.states() == [("posted", None)] * 20 + [("held", "too-many")]


# What is written, and how many of the emails keep their original.
FLOODS: dict[str, tuple[dict[str, str], int]] = {
    "a person": ({}, 40),  # 20 to be posted, and 20 that an admin may post
    "another sender": ({"From": "eve@other.test"}, 20),
    "a program": ({"Auto-Submitted": "auto-replied"}, 20),
}
FLOOD = 10_000 if os.environ.get("EVERY_CASE") else 60


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("writer", FLOODS)
async def test_of_thousands_of_emails_in_a_minute_few_are_kept(rig: Rig, writer: str) -> None:
    headers, kept = FLOODS[writer]
    await rig.send_email()

    def send() -> None:
        with smtplib.LMTP("127.0.0.1", rig.port, timeout=60) as server:
            for number in range(FLOOD):
                email = rig.reply(TEXT, **headers, **{"Message-ID": f"<{number}@customer.test>"})
                server.sendmail("anna@customer.test", rig.address, email.as_bytes())

    await asyncio.to_thread(send)
    while await rig.post():
        pass
    assert len(await rig.messages()) == (20 if writer == "a person" else 0)
    async with rig.sweeping.notifications() as session:
        counts = await session.execute(text("select count(*), count(original) from inbound_emails"))
        assert tuple(counts.one()) == (FLOOD, kept)


@asynccontextmanager
async def failing(postgres: Server, database: str, table: str, sqlstate: str) -> AsyncIterator[None]:
    """Let PostgreSQL fail with an error at each new row of a table."""
    owner = await asyncpg.connect(postgres.url(database))
    await owner.execute(f"""
        create function fail() returns trigger language plpgsql as
            $$ begin raise exception 'could not extend file' using errcode = '{sqlstate}'; end $$;
        create trigger fails before insert on {table} for each row execute function fail();
    """)
    try:
        yield
    finally:
        await owner.execute(f"drop trigger fails on {table}; drop function fail()")
        await owner.close()


# A full disk, one that the provider made read-only, and no memory.
@pytest.mark.parametrize("sqlstate", ["53100", "25006", "53200"])
async def test_with_a_full_disk_no_email_is_accepted_and_the_next_attempt_is(
    rig: Rig, postgres: Server, sqlstate: str
) -> None:
    await rig.send_email()
    async with failing(postgres, "notifications", "inbound_emails", sqlstate):
        assert (await rig.deliver(rig.reply(TEXT)))[0] == 451  # type: ignore[index]
    assert await rig.rows() == []
    assert await rig.deliver(rig.reply(TEXT)) is None
    await rig.post()
    assert [message["body"] for message in await rig.messages()] == [TEXT]


@pytest.mark.parametrize("full", ["messages", "attachments", "files"])
async def test_while_the_disk_of_conversations_is_full_an_email_waits(
    rig: Rig, postgres: Server, tmp_path: Path, full: str
) -> None:
    await rig.send_email()
    await rig.deliver(with_files(rig.reply(TEXT), 1, 10))
    if full == "files":  # a directory in which nothing can be written
        files = tmp_path / "files"
        await asyncio.to_thread(files.touch)
        await rig.post()
        await asyncio.to_thread(files.unlink)
    else:
        async with failing(postgres, "conversations", full, "53100"):
            await rig.post()
    assert await rig.states() == [("received", None)]
    await rig.run("update inbound_emails set next_attempt_at = now()")
    await rig.post()
    assert await rig.states() == [("posted", None)]
    [message] = await rig.messages()
    assert (message["body"], len(message["attachments"])) == (TEXT, 1)
