"""The recipient of an email, or the reason why there is none."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from services.notifications.mail.addresses import AddressError, is_unattended, mailbox_of, sender_address
from services.notifications.rules import Audience, Reason
from services.notifications.settings import EmailSettings
from shared.settings import Role


@dataclass(frozen=True, slots=True)
class Recipient:
    """The current address of an email and the mailbox it counts for, or the reason why it is suppressed."""

    address: str | None = None
    mailbox: str | None = None
    reason: Reason | None = None


class User(Protocol):
    """What the recipient depends on: a `Person`, or a row of theirs."""

    @property
    def email(self) -> str | None:
        """The address."""

    @property
    def deleted(self) -> bool:
        """Whether the store has deleted the user."""

    @property
    def role(self) -> str | None:
        """The role that the store has given the user, if any."""


def find_recipient(audience: Audience, user: User | None, settings: EmailSettings) -> Recipient:
    """Return the recipient of emails to the customer or admin, or to support."""
    if audience is not Audience.SUPPORT and user is not None and user.deleted:
        return Recipient(reason=Reason.USER_DELETED)
    if audience is Audience.ADMIN and user is not None and user.role not in {None, Role.ADMIN}:
        return Recipient(reason=Reason.NOT_AN_ADMIN)
    address = settings.support_email if audience is Audience.SUPPORT else user and user.email
    if not address:
        return Recipient(reason=Reason.NO_ADDRESS)
    reason = unsendable_reason(audience, address, settings)
    return Recipient(reason=reason) if reason else Recipient(address, mailbox_of(address))


def unsendable_reason(audience: Audience, address: str, settings: EmailSettings) -> Reason | None:
    """Return why no email may go to an address, by the settings; None if one may."""
    if settings.smtp_url is None:
        return Reason.NO_SMTP
    patterns = settings.email_only_to
    if patterns and not any(fnmatchcase(address.lower(), pattern.lower()) for pattern in patterns):
        return Reason.RECIPIENT_NOT_ALLOWED
    try:
        mailbox = mailbox_of(address)
    except AddressError:
        return Reason.ADDRESS_NOT_SUPPORTED
    # The support inbox, or the admin of a small store, may have the sender's address; a customer may not.
    own = (settings.email_from, settings.email_reply_to, settings.support_email, settings.inbound_address)
    own_mailboxes = {mailbox_of(sender_address(address)) for address in own if address}
    is_inbound = mailbox.rpartition("@")[2] == settings.inbound_domain
    if audience is Audience.CUSTOMER and (mailbox in own_mailboxes or is_inbound):
        return Reason.OWN_ADDRESS
    return Reason.UNATTENDED_ADDRESS if audience is Audience.CUSTOMER and is_unattended(mailbox) else None
