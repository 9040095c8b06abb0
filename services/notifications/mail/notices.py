"""The notice to the sender of an email that is held: that it waits for a person, and where to write instead.

It says nothing of the conversation but its link, which our own email had, too. It is marked as an automatic reply, and
asks programs for silence.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from uuid import UUID

from services.notifications.mail.addresses import addr_spec, message_id, sender_address, sender_name
from services.notifications.mail.headers import body_part, encoded_header, header_line, mailbox_header
from services.notifications.mail.message import LOCALE, Brand
from shared.translations import find_language

_MESSAGE_ID: Final = re.compile("<[!-;=?-~]{1,200}>")


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notice says. `for_admin`: the email answered one for admins; `path`: of the page to write at."""

    id: UUID
    to_address: str
    locale: str | None
    answered_id: str
    for_admin: bool
    path: str
    at: datetime


def compose_notice(notice: Notice, brand: Brand) -> bytes:
    """Return a notice as sent to the server. Raises ValueError if its recipient cannot be written in a header."""
    language = find_language(LOCALE, [notice.locale, brand.locale])
    gettext = language.translations.gettext
    store = header_line(brand.store_name)
    link = f"{brand.public_url.rstrip('/')}{notice.path}"
    if notice.for_admin:
        why = gettext(
            "Your reply was not sent on: it may contain more than your own words, or we do not know its address."
        )
    else:
        why = gettext("Your email came from an address that does not belong to this conversation or to a customer.")
    text = "\n\n".join(
        [
            why,
            gettext("It waits until somebody at %(store)s has read it. You can write here at once:") % {"store": store},
            link,
            gettext("This is an automatic message, once a day at most."),
        ]
    )
    subject = gettext("Your email to %(store)s is waiting") % {"store": store}
    name = sender_name(brand.email_from) or brand.store_name
    headers = [
        ("Date", format_datetime(notice.at.astimezone(UTC))),
        ("From", mailbox_header("From", name, addr_spec(sender_address(brand.email_from)))),
        ("To", addr_spec(notice.to_address)),
        ("Subject", encoded_header("Subject", subject)),
        ("Message-ID", message_id(notice.id, brand.email_from)),
        ("Auto-Submitted", "auto-replied"),
        ("X-Auto-Response-Suppress", "All"),
        ("Precedence", "bulk"),
        ("MIME-Version", "1.0"),
    ]
    if _MESSAGE_ID.fullmatch(notice.answered_id):
        headers += [("In-Reply-To", notice.answered_id), ("References", notice.answered_id)]
    head = "".join(f"{key}: {value}\r\n" for key, value in headers)
    return head.encode() + body_part("plain", f"{text}\n")
