"""Customers who answer our emails by email, through a mail server that tries again until it gets an answer."""

import asyncio
import random
import smtplib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.chaos.history import History
from bench.chaos.mailroom import CaughtEmail, Mailroom

TIMEOUT = 20.0  # seconds until the mail server gives a connection up, and begins again
PER_CONVERSATION = 19  # replies; beyond the product's limit an hour they wait for an admin

_TRY_AGAIN = (OSError, smtplib.SMTPException)


@dataclass
class Inbound:
    """Where replies go, and the emails that can be answered."""

    host: str
    port: int
    mailroom: Mailroom
    sent: Counter[str] = field(default_factory=Counter)  # replies by conversation


class Replier:
    """A mail server with one email at a time."""

    def __init__(self, inbound: Inbound, history: History, seed: str, pause: float) -> None:
        self.inbound, self.history = inbound, history
        self.rng, self.pause = random.Random(seed), pause
        self.thread = ThreadPoolExecutor(1)  # of its own: a dialogue may hang for long

    async def write(self, stop: asyncio.Event) -> None:
        """Answer emails until `stop`, and deliver the last reply."""
        while not stop.is_set():
            email = self._choose()
            if email is not None:
                self.inbound.sent[email.conversation] += 1
                await self._deliver(email, f"{self.rng.getrandbits(64):016x}")
            await asyncio.sleep(self.rng.random() * self.pause if email else 0.2)
        self.thread.shutdown()

    def _choose(self) -> CaughtEmail | None:
        emails = self.inbound.mailroom.caught
        for conversation in self.rng.sample(sorted(emails), min(len(emails), 20)):
            if self.inbound.sent[conversation] < PER_CONVERSATION:
                return emails[conversation]
        return None

    async def _deliver(self, email: CaughtEmail, token: str) -> None:
        """Deliver a reply until it is accepted or refused. The same bytes each time."""
        content = (
            f"From: {email.recipient}\r\nTo: {email.reply_to}\r\nMessage-ID: <{token}@customer.test>\r\n\r\n"
            f"chaos-{token}\r\n"
        ).encode()
        while True:
            try:
                code = await asyncio.get_running_loop().run_in_executor(self.thread, self._dialogue, email, content)
            except _TRY_AGAIN:
                code = 0
            if code // 100 == 2:
                self.history.replied[token] = email.conversation
                return
            if code // 100 == 5:
                self.history.refused_replies += 1
                return
            self.history.retries += 1
            await asyncio.sleep(0.1 + self.rng.random() * 0.4)

    def _dialogue(self, email: CaughtEmail, content: bytes) -> int:
        """Return the code of the last answer."""
        with smtplib.LMTP(self.inbound.host, self.inbound.port, timeout=TIMEOUT) as server:
            server.ehlo()
            server.mail(email.recipient)
            code, _ = server.rcpt(email.reply_to)
            return server.data(content)[0] if code // 100 == 2 else code
