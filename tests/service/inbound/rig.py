"""Both services with a mail server between them: a customer gets an email and answers it over a real LMTP dialogue."""

import asyncio
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from typing import Any

import httpx2
from pydantic import SecretStr
from sqlalchemy import select, text

from deploy.local.ports import free_ports
from services.notifications.delivery.claiming import claim_emails
from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.posting import post_due
from services.notifications.inbound.reception import InboundAddresses, Reception
from services.notifications.inbound.reply_content import Store
from services.notifications.inbound.server import InboundServer, Receiver
from services.notifications.mail.listen_url import Listen
from services.notifications.models import InboundEmail
from shared.database.transactions import SessionFactory, connection_provider, transaction
from tests.service.conftest import INBOUND_SECRET, As
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import Sweeper

DOMAIN = "in.store.test"
SUPPORT_ADDRESS = "support@store.test"
AUTHSERV = "mx.store.test"
SETTINGS = email_settings(
    "postgresql://unused",
    inbound_domain=DOMAIN,
    inbound_secret=SecretStr(INBOUND_SECRET),
    inbound_address=SUPPORT_ADDRESS,
    inbound_authserv_id=AUTHSERV,
)
STORE = Store(["Test Store"], ["support@localhost", f"@{DOMAIN}"], SETTINGS.public_url)
TRUSTED = TrustedResults(AUTHSERV)
SENDER = "anna@customer.test"


@dataclass
class Rig:
    """The services, and what a customer's mail program and mail server do."""

    sweeping: Sweeper
    anna: Caller
    sam: Caller
    port: int
    client: httpx2.AsyncClient
    is_lmtp: bool = True
    acting_as: As = field(repr=False, default=None)  # type: ignore[assignment] # the fixture sets it
    shop_headers: dict[str, str] = field(default_factory=dict)
    conversation: str = ""
    sent: list[EmailMessage] = field(default_factory=list)
    bounces_to: str = ""  # the envelope sender of the last email

    async def send_email(self, body: str = "Which size do you need?") -> EmailMessage:
        """Answer the customer, and return the email that goes out."""
        if not self.conversation:
            self.conversation = (await self.anna.open(body="Hello?"))["id"]
        await self.sam.post(self.conversation, body)
        return await self.claim()

    async def claim(self) -> EmailMessage:
        """Claim the due email as a sender does, and return it."""
        await self.sweeping.number()
        await self.sweeping.catch_up_fully()
        async with transaction(self.sweeping.notifications) as session:
            [email] = await claim_emails(session, SETTINGS) or []
        self.bounces_to = email.envelope_from
        self.sent.append(parsed(email.content))
        return self.sent[-1]

    def reply(self, body: str = "The large one.", *, to: str | None = None, **headers: str) -> EmailMessage:
        """Return a reply to the last email."""
        message = EmailMessage(policy=policy.SMTP)
        given = {"From": f"Anna <{SENDER}>", "To": to or self.address, "Message-ID": "<1@customer.test>"}
        for name, value in (given | headers).items():
            if value:
                message[name] = value
        message.set_content(body)
        return message

    def new_email(
        self, body: str = "The blue one, please.", *, signer: str | None = "", **headers: str
    ) -> EmailMessage:
        """Return an email to the address for new conversations, authenticated by its sender's domain or `signer`."""
        given = {"From": f"Anna <{SENDER}>", "Subject": "Which colour?", "Message-ID": "<new@customer.test>"}
        message = self.reply(body, to=SUPPORT_ADDRESS, **(given | headers))
        return message if signer is None else passed(message, signer)

    @property
    def address(self) -> str:
        """The address that the last email asks to answer to."""
        return str(self.sent[-1]["Reply-To"]).rpartition("<")[2].rstrip(">")

    async def deliver(
        self, message: EmailMessage | bytes, *to: str, sender: str = SENDER
    ) -> dict[str, tuple[int, bytes]] | tuple[int, bytes] | None:
        """Deliver an email; return the refused recipients, or the reply to the email. None if it was accepted."""
        content = message if isinstance(message, bytes) else message.as_bytes()
        return await asyncio.to_thread(self._deliver, content, to or (self.address,), sender)

    def _deliver(
        self, content: bytes, to: tuple[str, ...], sender: str
    ) -> dict[str, tuple[int, bytes]] | tuple[int, bytes] | None:
        kind = smtplib.LMTP if self.is_lmtp else smtplib.SMTP
        with kind("127.0.0.1", self.port, timeout=20) as server:
            try:
                return server.sendmail(sender, to, content) or None
            except smtplib.SMTPRecipientsRefused as error:
                return error.recipients
            except smtplib.SMTPDataError as error:
                return error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""

    async def post(self) -> int:
        """Post what is due."""
        acquire = connection_provider(self.sweeping.notifications.kw["bind"])
        return await post_due(acquire, self.client, STORE)

    async def rows(self) -> list[InboundEmail]:
        async with self.sweeping.notifications() as session:
            return list(await session.scalars(select(InboundEmail).order_by(InboundEmail.id)))

    async def states(self) -> list[tuple[str, str | None]]:
        return [(row.state, row.reason) for row in await self.rows()]

    async def messages(self) -> list[Any]:
        """Return the customer's messages after the first one."""
        found = await self.anna.get(f"/conversations/{self.conversation}/messages", limit=100)
        return [message for message in found["items"] if message["sender"]["role"] == "customer"][1:]

    async def column(self, query: str) -> list[Any]:
        """Return the first column of a query of the notifications database."""
        async with self.sweeping.notifications() as session:
            return list(await session.scalars(text(query)))

    async def run(self, statement: str) -> None:
        """Run a statement on the notifications database."""
        async with transaction(self.sweeping.notifications) as session:
            await session.execute(text(statement))


def parsed(content: bytes) -> EmailMessage:
    """Read an email."""
    return message_from_bytes(content, policy=policy.default)


def passed(message: EmailMessage, signer: str = "") -> EmailMessage:
    """Add that our mail server authenticated the sender's domain, or another one."""
    domain = signer or str(message["From"]).rpartition("@")[2].rstrip(">")
    message["Authentication-Results"] = f"{AUTHSERV}; dkim=pass header.d={domain}; dmarc=pass header.from={domain}"
    return message


@asynccontextmanager
async def running_rig(
    sweeping: Sweeper, anna: Caller, sam: Caller, *, is_lmtp: bool = True, port: int = 0
) -> AsyncIterator[Rig]:
    """Run the LMTP or SMTP server, on a free port if none is given."""
    sweeping.settings = SETTINGS
    [port] = [port] if port else free_ports([0])
    sessions: SessionFactory = sweeping.notifications
    acquire, transact = connection_provider(sessions.kw["bind"]), partial(transaction, sessions)
    addresses = InboundAddresses(DOMAIN, INBOUND_SECRET, "https://store.test", TRUSTED, SUPPORT_ADDRESS)
    reception = Reception(acquire, transact, addresses)
    server = InboundServer(Receiver(reception), Listen(is_lmtp, "127.0.0.1", port), "store.test")
    await server.start()
    transport = anna.api._transport  # noqa: SLF001 - the same application with other headers
    headers = {"Authorization": f"Bearer {INBOUND_SECRET}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://chats.test", headers=headers) as client:
        try:
            yield Rig(sweeping, anna, sam, port, client, is_lmtp)
        finally:
            await server.stop()
