"""Ask for a notice to the sender of an email that is held, in the statement that holds it."""

from typing import Final

from services.notifications.rules import InboundReason

TOLD: Final = frozenset(
    {
        InboundReason.OTHER_SENDER,
        InboundReason.UNKNOWN_SENDER,
        InboundReason.AMBIGUOUS_SENDER,
        InboundReason.NO_LONGER_ALLOWED,
        InboundReason.UNCERTAIN_QUOTE,
    }
)
"""Why an email is held whose sender may write another way. A sender of too many might be a program."""

TELL_SENDER_SQL: Final = "insert into held_notices (mailbox, inbound_id)"
"""The start of a statement that asks for notices; the mailboxes were authenticated."""

ONCE_A_DAY_SQL: Final = """
on conflict (mailbox) do update set inbound_id = excluded.inbound_id, asked_at = clock_timestamp(), sent_at = null
where held_notices.asked_at < clock_timestamp() - interval '1 day'
"""
"""Its end."""
