"""What all ways in have in common: find out whom an address stands for, and keep an email as a row or say why not."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Final, Self
from uuid import UUID

import structlog
from prometheus_client import Counter

from services.notifications.inbound.authentication import TrustedResults
from services.notifications.inbound.binding import Anyone, Bound, Target, find_bound
from services.notifications.inbound.intake import GATHER, Intake, TakenIn
from services.notifications.inbound.loops import envelope_mailbox
from services.notifications.inbound.recipients import addresses_in, has_address
from services.notifications.inbound.reports.bounces import (
    Reported,
    Transact,
    find_reported,
    take_complaint,
    take_report,
)
from services.notifications.inbound.reports.complaints import ABUSE, AbuseMailbox
from services.notifications.inbound.unsubscribing import Unsubscriber, find_unsubscriber, unsubscribe
from services.notifications.mail.addresses import mailbox_or_none
from services.notifications.mail.reply_addresses import (
    ReplyToken,
    read_bounce_address,
    read_reply_token,
    read_unsubscribe_address,
)
from services.notifications.rules import InboundState
from services.notifications.settings import TakingSettings
from shared.batcher import Batcher
from shared.database.transactions import ConnectionProvider
from shared.process.failpoints import failpoint

MAX_BYTES: Final = 40 * 2**20
DATABASE_SECONDS: Final = 20.0  # for one answer
RECIPIENTS: Final = 50  # looked up in one statement

EMAILS = Counter("chats_inbound_emails_total", "Emails that this process has taken in, by state", ["state"])
REFUSED = Counter("chats_inbound_refused_total", "Addresses that this process has refused, by reason", ["reason"])

Recipient = Target | Unsubscriber | Reported | AbuseMailbox

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Refused:
    """An address that takes no email: why, the enhanced status code of RFC 3463, and the text for its sender."""

    reason: str
    status: str
    text: str


UNKNOWN: Final = Refused("unknown-address", "5.1.1", "There is no such address here")
EXPIRED_BOUNCE: Final = Refused("expired", "5.1.6", "This address has expired")
NO_REPORT: Final = Refused("no-report", "5.1.6", "Nobody reads this address. Answer to the address in Reply-To")
NO_COMPLAINT: Final = Refused("no-complaint", "5.6.0", "Only feedback reports (RFC 5965) are taken here")


@dataclass(frozen=True, slots=True)
class InboundAddresses:
    """Which addresses are ours, and whose word about a sender counts.

    `domain` is that of addresses made with `secret`, empty if no email is taken in. `inbound_address` is for new
    conversations. `public_url` has the pages to which refused senders are pointed.
    """

    domain: str
    secret: str = field(repr=False)
    public_url: str
    trusted: TrustedResults
    inbound_address: str | None = None

    @classmethod
    def of(cls, settings: TakingSettings, public_url: str) -> Self:
        """Return what the settings say."""
        return cls(
            domain=settings.inbound_domain or "",
            secret=settings.inbound_secret.get_secret_value() if settings.inbound_secret else "",
            public_url=public_url,
            trusted=TrustedResults(settings.inbound_authserv_id, settings.inbound_require_auth),
            inbound_address=settings.inbound_address,
        )


class Reception:
    """Finds out whom addresses stand for, and keeps emails. Errors of the database are the caller's.

    `transact` begins a transaction, in which a report takes effect. `arrived` is called after each email that was kept.
    """

    def __init__(
        self,
        acquire: ConnectionProvider,
        transact: Transact,
        addresses: InboundAddresses,
        arrived: Callable[[], None] = lambda: None,
    ) -> None:
        self._acquire, self._transact, self._arrived = acquire, transact, arrived
        self.domain, self._secret = addresses.domain, addresses.secret
        self._intake = Intake(acquire, addresses.trusted)
        # Recipients that are named meanwhile share a statement.
        self._bound = Batcher(self._find_bound, RECIPIENTS, gather=GATHER)
        self._inbound_address = mailbox_or_none(addresses.inbound_address)
        self._new_conversation = f"{addresses.public_url.rstrip('/')}/dashboard/messages/new/"

    def _read(self, address: str) -> ReplyToken | tuple[UUID, bytes] | UUID | None:
        """Return what an address of ours says: a token, a signature that stops emails, or which email has bounced.

        Only the last one is known to be ours by its form.
        """
        local, _, domain = address.rpartition("@")
        if domain.lower().rstrip(".") != self.domain:
            return None
        return read_reply_token(local) or read_unsubscribe_address(local) or read_bounce_address(self._secret, local)

    def addresses_in(self, headers: Message) -> list[str]:
        """Return our addresses in an email's headers: those that we made, else the one for new conversations."""
        found = addresses_in(headers, self.domain)
        if not found and self._inbound_address is not None and has_address(headers, self._inbound_address):
            return [self._inbound_address]
        return found

    async def find(self, address: str, envelope_from: str | None) -> Recipient | Refused:
        """Return what an address stands for, or why it is refused for this sender.

        `None` is a sender that nobody told us: its expired addresses are not refused, and the header decides.
        """
        if self._inbound_address is not None and mailbox_or_none(address) == self._inbound_address:
            return Anyone()
        if self.domain and mailbox_or_none(address) == f"{ABUSE}@{self.domain}":
            return AbuseMailbox()
        async with asyncio.timeout(DATABASE_SECONDS):
            found = await self._look_up(address)
        if found is None:
            return _refuse(UNKNOWN)
        if isinstance(found, Reported):
            return _refuse(EXPIRED_BOUNCE) if found.expired else found
        refused = self._refusal(found, envelope_from) if isinstance(found, Bound) else None
        return found if refused is None else _refuse(refused)

    async def _look_up(self, address: str) -> Bound | Unsubscriber | Reported | None:
        match self._read(address):
            case ReplyToken() as token:
                return await self._bound.submit(token)
            case (email_id, signature):
                async with self._acquire() as connection:
                    return await find_unsubscriber(connection, email_id, signature)
            case UUID() as email_id:
                async with self._acquire() as connection:
                    return await find_reported(connection, email_id)
            case None:
                return None

    async def _find_bound(self, tokens: Sequence[ReplyToken]) -> list[Bound | None]:
        async with self._acquire() as connection:
            return await find_bound(connection, tokens)

    def _refusal(self, bound: Bound, envelope_from: str | None) -> Refused | None:
        link = self._new_conversation
        if bound.conversation_deleted:
            return Refused("conversation-deleted", "5.1.6", f"This conversation was deleted. Start a new one: {link}")
        if bound.user_deleted:
            return Refused("user-deleted", "5.1.6", "This address is no longer in use")
        known = None if envelope_from is None else envelope_mailbox(envelope_from)
        is_others = known not in bound.addresses and not bound.to_support
        if bound.expired and envelope_from is not None and is_others:
            return Refused("expired", "5.1.6", f"This address has expired. Write in the store: {link}")
        return None

    async def keep(self, recipient: Recipient, envelope_from: str | None, content: bytes) -> TakenIn | Refused | None:
        """Keep an email as a row, which is committed on return. None if it is done with: it stops emails, or reports.

        Errors of the database are the caller's: the email must then be delivered again.
        """
        if isinstance(recipient, Reported | AbuseMailbox):
            return await self._keep_report(recipient, envelope_from, content)
        async with asyncio.timeout(DATABASE_SECONDS):
            if isinstance(recipient, Unsubscriber):
                async with self._acquire() as connection:
                    await unsubscribe(connection, recipient, envelope_from, content)
                return None
            taken = await self._intake.take_in(recipient, envelope_from, content)
        if taken is None:
            return _refuse(Refused("deleted", "5.1.6", "This conversation or its customer was deleted"))
        failpoint("inbound-committed")
        EMAILS.labels(taken.state).inc()
        log.info("email taken in", inbound_id=str(taken.id), state=taken.state, again=not taken.is_new)
        self._arrived()
        return taken

    async def _keep_report(
        self, reported: Reported | AbuseMailbox, envelope_from: str | None, content: bytes
    ) -> Refused | None:
        async with asyncio.timeout(DATABASE_SECONDS):
            if isinstance(reported, AbuseMailbox):
                if not await take_complaint(self._transact, self._secret, content):
                    return _refuse(NO_COMPLAINT)
            elif not await take_report(self._transact, reported, envelope_from, content):
                return _refuse(NO_REPORT)
        EMAILS.labels(InboundState.IGNORED).inc()
        return None


def _refuse(refused: Refused) -> Refused:
    REFUSED.labels(refused.reason).inc()
    return refused
