"""The store's mail server, the customer's mailbox, and the product between them."""

import asyncio
import imaplib
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

from pydantic import SecretStr
from sqlalchemy import select

from services.notifications.delivery.sender import drain
from services.notifications.models import InboundEmail
from tests.helpers.waiting import eventually
from tests.real_mail.helpers.dovecot import PASSWORD, Dovecot
from tests.real_mail.helpers.exim import Exim
from tests.real_mail.helpers.postfix import Postfix
from tests.service.inbound.rig import Rig

DEADLINE = 60.0


@dataclass(frozen=True)
class Servers:
    """The running mail servers, and the port at which they deliver our domain's emails."""

    postfix: Postfix
    exim: Exim
    dovecot: Dovecot
    inbound: int


@dataclass
class Town:
    """A store and its customer Anna, whose email goes through real mail servers."""

    rig: Rig
    servers: Servers

    async def send(self) -> None:
        """Send what is due through the store's Postfix."""
        sweeping = self.rig.sweeping
        await sweeping.number()
        await sweeping.catch_up_fully()
        url = SecretStr(f"smtp://127.0.0.1:{self.servers.postfix.submission}")
        settings = sweeping.settings.model_copy(update={"smtp_url": url})
        await drain(sweeping.notifications, settings, asyncio.Event())

    async def move_to(self, mailbox: str, domain: str = "customer.test") -> None:
        """Change the customer's address."""
        person = {"name": "Anna", "email": f"{mailbox}@{domain}"}
        answer = await self.rig.anna.api.put("/api/v1/store/users/anna", json=person, headers=self.rig.shop_headers)
        assert answer.is_success, answer.text

    async def write(self, body: str = "Which size do you need?") -> None:
        """Write to the customer as an admin."""
        rig = self.rig
        if not rig.conversation:
            rig.conversation = (await rig.anna.open(body="Hello?"))["id"]
        await rig.sam.post(rig.conversation, body)

    async def ask(self, body: str = "Which size do you need?", mailbox: str = "anna") -> EmailMessage:
        """Write to the customer as an admin; return the email as it arrived in the mailbox."""
        await self.write(body)
        self.rig.sent.append(await self.arriving(mailbox))
        return self.rig.sent[-1]

    async def arriving(self, mailbox: str) -> EmailMessage:
        """Send what is due; return the email that arrives in a mailbox."""
        before = len(await self.mailbox(mailbox))
        await self.send()

        async def arrived() -> bool:
            return len(await self.mailbox(mailbox)) > before

        await eventually(arrived, deadline=DEADLINE)
        return (await self.mailbox(mailbox))[-1]

    async def mailbox(self, user: str) -> list[EmailMessage]:
        """Return the emails in a customer's mailbox."""
        return await asyncio.to_thread(self._read, user)

    def _read(self, user: str) -> list[EmailMessage]:
        with imaplib.IMAP4("127.0.0.1", self.servers.dovecot.imap, timeout=DEADLINE) as server:
            server.login(f"{user}@customer.test", PASSWORD)
            [count] = server.select(readonly=True)[1]
            if not int(count or b"0"):
                return []
            parts = server.fetch("1:*", "(RFC822)")[1]
        found = [part[1] for part in parts if isinstance(part, tuple)]
        return [message_from_bytes(content, policy=policy.default) for content in found]

    async def arrived(self, *states: tuple[str, str | None]) -> None:
        """Wait until emails have come in, with these states."""

        async def as_expected() -> bool:
            return await self.rig.states() == list(states)

        await eventually(as_expected, deadline=DEADLINE)

    async def originals(self) -> list[bytes | None]:
        """Return the emails that have come in, as they arrived."""
        async with self.rig.sweeping.notifications() as session:
            return list(await session.scalars(select(InboundEmail.original).order_by(InboundEmail.id)))

    async def thread(self) -> Sequence[str]:
        """Post what came in; return the texts of the customer's messages after the first one."""
        while await self.rig.post():
            pass
        return [message["body"] for message in await self.rig.messages()]
