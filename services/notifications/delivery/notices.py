"""Tell the senders of held emails that these wait for a person, each at most once a day.

Only senders whom our mail server authenticated are told: others might never have written. A notice is sent once at the
most: it counts as sent before it is, because a second one is worse than none.
"""

from collections.abc import Mapping
from typing import Any, Final

import structlog

from services.notifications.delivery.circuit_breaker import MAY_CLAIM
from services.notifications.delivery.recipients import unsendable_reason
from services.notifications.delivery.rendering import brand_of
from services.notifications.delivery.suppression import find_suppressed
from services.notifications.mail.notices import Notice, compose_notice
from services.notifications.mail.smtp import SmtpConnection
from services.notifications.mail.smtp_url import parse_smtp_url
from services.notifications.rules import Audience, InboundKind
from services.notifications.settings import EmailSettings
from shared.database.transactions import SessionFactory, transaction, transaction_driver

BATCH: Final = 20
# Addresses of RFC 2142 that stand for no person.
_ROLES: Final = {"abuse", "hostmaster", "noc", "security", "webmaster", "www", "ftp", "news", "usenet", "uucp"}

log = structlog.get_logger()


async def send_notices(sessions: SessionFactory, settings: EmailSettings) -> int:
    """Send notices that are due; return how many were claimed. Without any, this is one statement."""
    async with transaction(sessions) as session:
        driver = await transaction_driver(session)
        rows = await driver.fetch(_CLAIM, BATCH)
        suppressed = await find_suppressed(session, {row["mailbox"] for row in rows})
    senders = [row for row in rows if row["mailbox"] not in suppressed and _may_be_told(row["mailbox"], settings)]
    if not senders or settings.smtp_url is None:
        return len(rows)
    connection = SmtpConnection(parse_smtp_url(settings.smtp_url.get_secret_value()), ehlo=settings.ehlo)
    try:
        for row in senders:
            await _send(connection, row, settings)
    finally:
        await connection.close()
    return len(rows)


async def purge_notices(sessions: SessionFactory) -> None:
    """Forget addresses that may be told again."""
    async with transaction(sessions) as session:
        await (await transaction_driver(session)).execute(_PURGE)


def _may_be_told(mailbox: str, settings: EmailSettings) -> bool:
    """Return whether a person reads what goes to an address, and it is none of our own.

    A mailbox is an address in another case, which only an ASCII one survives.
    """
    is_role = mailbox.partition("@")[0] in _ROLES
    return mailbox.isascii() and not is_role and unsendable_reason(Audience.CUSTOMER, mailbox, settings) is None


async def _send(connection: SmtpConnection, row: Mapping[str, Any], settings: EmailSettings) -> None:
    for_admin = row["kind"] in {InboundKind.ADMIN_MESSAGE, InboundKind.NOTE}
    path = f"/{'admin/dashboard/conversation' if for_admin else 'dashboard/messages'}/"
    is_new = row["kind"] == InboundKind.CONVERSATION
    path += "new/" if is_new else f"{row['conversation_id']}/"
    notice = Notice(row["id"], row["mailbox"], row["locale"], row["same_as"], for_admin, path, row["sent_at"])
    try:
        content = compose_notice(notice, brand_of(settings))
    except ValueError:
        return
    attempt = await connection.send(
        sender=settings.email_from,
        recipient=row["mailbox"],
        content=settings.signer.sign(content) if settings.signer else content,
        before_data=_go_on,
    )
    log.info("notice about a held email ended", inbound_id=str(row["id"]), outcome=attempt.outcome)


async def _go_on() -> bool:
    return True


# The language is that of the person who has the address, if one has.
_CLAIM: Final = f"""
with due as (
    select mailbox from held_notices where sent_at is null and {MAY_CLAIM}
    order by asked_at limit $1 for update skip locked
), claimed as (
    update held_notices as notice set sent_at = clock_timestamp() from due where notice.mailbox = due.mailbox
    returning notice.*
)
select claimed.mailbox, claimed.sent_at, email.id, email.kind, email.conversation_id, email.same_as, (
    select locale from people where lower(people.email) = claimed.mailbox and not deleted limit 1
) as locale
from claimed join inbound_emails as email on email.id = claimed.inbound_id and email.state = 'held'
    left join marks on marks.conversation_id = email.conversation_id
where marks.deleted_at is null
"""  # noqa: S608 - built from constants
_PURGE: Final = "delete from held_notices where asked_at < clock_timestamp() - interval '1 day'"
