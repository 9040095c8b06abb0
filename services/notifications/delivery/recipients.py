"""Whom a mail goes to, and when to nobody."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from services.notifications.mail.addresses import AddressError, is_unattended, mailbox_of, sender_address
from services.notifications.models import Person
from services.notifications.rules import Audience, Reason
from services.notifications.settings import MailSettings


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where a mail goes at present: an address, and the mailbox that the caps count it by. Or why to nobody."""

    address: str | None = None
    mailbox: str | None = None
    reason: Reason | None = None


def find_recipient(audience: Audience, customer: Person | None, settings: MailSettings) -> Recipient:
    """Find where mail to the customer, or to support, may go."""
    if audience is Audience.CUSTOMER and customer is not None and customer.deleted:
        return Recipient(reason=Reason.USER_DELETED)
    address = settings.support_email if audience is Audience.SUPPORT else customer and customer.email
    if not address:
        return Recipient(reason=Reason.NO_ADDRESS)
    reason = _why_not(audience, address, settings)
    return Recipient(reason=reason) if reason else Recipient(address, mailbox_of(address))


def _why_not(audience: Audience, address: str, settings: MailSettings) -> Reason | None:
    if settings.smtp_url is None:
        return Reason.NO_SMTP
    patterns = settings.email_only_to
    if patterns and not any(fnmatchcase(address.lower(), pattern.lower()) for pattern in patterns):
        return Reason.RECIPIENT_NOT_ALLOWED
    try:
        mailbox = mailbox_of(address)
    except AddressError:
        return Reason.ADDRESS_NOT_SUPPORTED
    # Who runs the store may well have the support's mail come to where mail is from; a customer has another address.
    own = (settings.email_from, settings.email_reply_to, settings.support_email)
    if audience is Audience.CUSTOMER and mailbox in {mailbox_of(sender_address(one)) for one in own if one}:
        return Reason.OWN_ADDRESS
    return Reason.UNATTENDED_ADDRESS if audience is Audience.CUSTOMER and is_unattended(mailbox) else None
