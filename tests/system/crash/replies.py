"""Replies and a bounce: the process that takes them in, a mail server that tries again, and what was promised."""

import asyncio
import smtplib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from email import message_from_string, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx2

from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.posting import post_due
from services.notifications.inbound.reception import InboundAddresses, Reception
from services.notifications.inbound.reply_content import Store
from services.notifications.inbound.server import InboundServer, Receiver
from services.notifications.mail.listen_url import Listen
from services.notifications.mail.reply_addresses import make_bounce_address, make_reply_address
from shared.database.engine import create_engine
from shared.database.transactions import connection_provider, create_sessions, transaction
from tests.system.crash.points import Fuse
from tests.system.crash.world import INBOUND_DOMAIN, SECRET, Outside, World

WRITERS = 3  # customers who reply
BOUNCE = "bounce"
PREFIX = "mail "  # of the acknowledged emails among the answers
STORE = Store(["Test Store"], ["support@store.test", f"@{INBOUND_DOMAIN}"], "http://127.0.0.1:8000")
ROUNDS = 200

_SENT = """
select id, recipient_id from emails where audience = 'customer' and state in ('sent', 'bounced')
order by recipient_id limit $1
"""
_WAITING = "select exists (select from inbound_emails where state = 'received')"

Api = Callable[[World], AbstractAsyncContextManager[httpx2.AsyncClient]]


async def take_in(api: Api, world: World, fuse: Fuse, answers: dict[str, Any], report: Callable[..., None]) -> None:
    """Run `chats inbound`, and the customers' mail server, until all replies are acknowledged and posted."""
    fuse.work = "inbound"
    outside = Outside(world)
    *emails, unwanted = await outside.rows(world.notifications_url, _SENT, WRITERS + 1)
    fuse.watch_driver()
    engine = create_engine(world.notifications_url, application="crash-inbound")
    acquire = connection_provider(engine)
    addresses = InboundAddresses(INBOUND_DOMAIN, SECRET, "https://store.test", TrustedResults(None))
    reception = Reception(acquire, partial(transaction, create_sessions(engine)), addresses)
    socket = str(Path(world.files) / "inbound.sock")
    server = InboundServer(Receiver(reception), Listen(is_lmtp=True, path=socket), "store.test")
    await server.start()
    replies = [reply for email in emails for reply in _replies(email["recipient_id"], email["id"])]
    for name, message in [*replies, (BOUNCE, _report(unwanted["recipient_id"], unwanted["id"]))]:
        if name not in answers:
            await asyncio.to_thread(_deliver, socket, message)
            answers[name] = {}
            report(("answered", {name: {}}))
    await server.stop()
    async with api(world) as client:
        client.headers["Authorization"] = f"Bearer {SECRET}"
        for _round in range(ROUNDS):
            if await post_due(acquire, client, STORE):
                continue
            if not await outside.value(world.notifications_url, _WAITING):
                break
            await outside.pass_time()
    await outside.close()
    await engine.dispose()


def _replies(customer: str, email_id: UUID) -> Iterator[tuple[str, EmailMessage]]:
    address, _ = make_reply_address(SECRET, email_id, INBOUND_DOMAIN)
    for number in (1, 2):
        name = f"{PREFIX}{number} of {customer}"
        message = EmailMessage(policy=policy.SMTP)
        message["From"], message["To"] = f"{customer}@customer.test", address
        message["Message-ID"] = f"<{number}.{customer}@customer.test>"
        message.set_content(name)
        if number == 2:
            message.add_attachment(b"content", maintype="application", subtype="pdf", filename=f"{customer}.pdf")
        yield name, message


def _report(customer: str, email_id: UUID) -> EmailMessage:
    """Return what a mail server says of an email to an address that does not exist."""
    address = make_bounce_address(SECRET, email_id, INBOUND_DOMAIN)
    status = f"Final-Recipient: rfc822; {customer}@customer.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    lines = [
        f"To: {address}",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b",
        "",
        "--b",
        "Content-Type: message/delivery-status",
        "",
        f"Reporting-MTA: dns; mx.customer.test\r\n\r\n{status}",
        "--b--",
        "",
    ]
    return message_from_string("\r\n".join(lines), policy=policy.SMTP)


def _deliver(socket: str, message: EmailMessage) -> None:
    with smtplib.LMTP(socket) as server:
        assert not server.sendmail(str(message["From"] or ""), str(message["To"]), message.as_bytes())


_POSTED = """
select body, conversation_id, (select count(*) from attachments where message_id = messages.id) as files
from messages where via = 'email' order by conversation_id, number
"""


async def broken(
    conversations: "asyncpg.Connection[Any]", notifications: "asyncpg.Connection[Any]", answers: dict[str, Any]
) -> list[str]:
    """Return the violations: every acknowledged reply is one message, with its files, in the order of their arrival."""
    acknowledged = sorted(name for name in answers if name.startswith(PREFIX))
    rows = await conversations.fetch(_POSTED)
    posted = Counter(row["body"] for row in rows)
    states = Counter(
        tuple(row)
        for row in await notifications.fetch("select state, reason, message_id is not null from inbound_emails")
    )
    gaps = await conversations.fetchval(
        "select count(*) from conversations as c where message_count"
        " <> (select count(*) from messages where conversation_id = c.id)"
    )
    bounced = await notifications.fetchrow(
        "select count(*) filter (where state = 'bounced'), (select count(*) from suppressions) from emails"
    )
    last: dict[UUID, str] = {}
    unordered = []
    for row in rows:
        if row["body"] < last.get(row["conversation_id"], ""):
            unordered.append(row["body"])
        last[row["conversation_id"]] = row["body"]
    files = {row["body"]: row["files"] for row in rows}
    violations = {
        f"acknowledged {acknowledged}, posted {sorted(posted.elements())}": sorted(posted.elements()) != acknowledged,
        f"emails ended as {states}": states != Counter({("posted", None, True): len(acknowledged)}),
        f"not in order: {unordered}": bool(unordered),
        f"files: {files}": any(count != int(" 2 " in body) for body, count in files.items()),
        f"{gaps} conversations with gaps": gaps > 0,
        f"bounced, and suppressed: {bounced}": tuple(bounced or ()) != (1, 1),
        "nothing was acknowledged": len(acknowledged) < 2 * WRITERS,
    }
    return [text for text, is_so in violations.items() if is_so]
