"""Find the author of an email, and what it therefore is: a reply, a new conversation, or one for an admin to judge.

What `From` says is believed only if our own mail server has authenticated it, or if the sender knows an address that
nobody can guess and what they write goes to admins only.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from email.message import Message
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import idna

from services.notifications.inbound.binding import Bound, find_answered
from services.notifications.inbound.parsing.mime import header_of
from services.notifications.mail.addresses import mailbox_or_none
from services.notifications.rules import InboundKind, InboundReason
from shared.database.engine import Driver
from shared.settings import Role

MAX_REFERENCES: Final = 20  # earlier emails that one names
MAX_PEOPLE: Final = 10  # with one address
_OURS = re.compile(r"<([0-9a-f]{32})@")
_ID = re.compile(r"<[^<>\s]{1,498}>")


async def resolve_reply(connection: Driver, bound: Bound, sender: str | None) -> Bound:
    """Find out which admin answers: exactly one present admin has the address, and nobody else.

    The support inbox is read by several. The recipient of another email is known, also before the store has synced
    their role.
    """
    if sender is None or bound.kind not in {InboundKind.ADMIN_MESSAGE, InboundKind.NOTE}:
        return bound
    people = await _with_address(connection, sender)
    admins = [person for person in people if person["role"] == Role.ADMIN or person["id"] == bound.user_id]
    if len(people) > 1 and admins:
        return replace(bound, held=InboundReason.AMBIGUOUS_SENDER)
    if not admins:  # an address that its admin had once may be somebody else's now
        return replace(bound, addresses=frozenset())
    if bound.to_support:
        return replace(bound, user_id=admins[0]["id"], addresses=frozenset({sender}))
    if bound.user_id is not None and any(person["role"] not in {None, Role.ADMIN} for person in admins):
        return replace(bound, held=InboundReason.NO_LONGER_ALLOWED)
    return bound


async def resolve_without_token(
    connection: Driver, message: Message, sender: str | None, same_as: str, *, authentic: bool
) -> Bound:
    """Find out what an email to the address for new conversations is: a reply to one of ours, or a new conversation.

    People answer an old email from their own copy, or write to an address that they know. Such an email belongs to the
    conversation that it refers to, if its sender may write there.
    """
    names = _references(message)
    answered = await find_answered(connection, [UUID(match[1]) for name in names if (match := _OURS.match(name))])
    for bound in answered:
        if bound.kind is not InboundKind.MESSAGE or (sender is not None and sender in bound.addresses):
            return await resolve_reply(connection, bound, sender)
    if sender is not None and (own := await _own_conversation(connection, sender, names)) is not None:
        return own
    opened = await _opened(connection, sender, same_as)
    is_customers = opened.user_id is not None and opened.held is None and authentic
    return answered[0] if answered and not is_customers else opened


async def _opened(connection: Driver, sender: str | None, same_as: str) -> Bound:
    """Return the conversation that an email opens, of the one customer who has the address."""
    conversation_id = _conversation_of(sender or "", same_as)
    people = await _with_address(connection, sender) if sender is not None else []
    customers = [person["id"] for person in people if person["role"] != Role.ADMIN]
    new = Bound(conversation_id, InboundKind.CONVERSATION, None, is_proven=False)
    if not customers or sender is None:
        return replace(new, held=InboundReason.UNKNOWN_SENDER)
    if len(people) > 1:
        return replace(new, held=InboundReason.AMBIGUOUS_SENDER)
    return replace(new, user_id=customers[0], addresses=frozenset({sender}))


async def _own_conversation(connection: Driver, sender: str, names: Sequence[str]) -> Bound | None:
    """Return the conversation that an earlier email of this sender has opened, if this one refers to it."""
    if not names:
        return None
    row = await connection.fetchrow(_OWN, [_conversation_of(sender, name) for name in names])
    if row is None or mailbox_or_none(row["email"]) != sender:
        return None
    addresses = frozenset({sender})
    return Bound(row["conversation_id"], InboundKind.MESSAGE, row["user_id"], addresses, is_proven=False)


async def _with_address(connection: Driver, sender: str) -> list[Any]:
    """Return the present people with an address."""
    rows = await connection.fetch(_PEOPLE, _spellings(sender), MAX_PEOPLE)
    return [row for row in rows if mailbox_or_none(row["email"]) == sender]


def _spellings(mailbox: str) -> list[str]:
    """Return the forms in which an address may be stored: its domain in ASCII, or in its own script."""
    local, _, domain = mailbox.rpartition("@")
    try:
        return sorted({mailbox, f"{local}@{idna.decode(domain)}"}) if "xn--" in domain else [mailbox]
    except UnicodeError:
        return [mailbox]


def _conversation_of(sender: str, same_as: str) -> UUID:
    """Return the id of the conversation that an email opens: the same when it arrives again, or is posted again."""
    digest = blake2b(f"{sender}\n{same_as}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return UUID(bytes=digest, version=4)


def _references(message: Message) -> list[str]:
    """Return the Message-IDs that an email refers to, the nearest first."""
    found = _ID.findall(header_of(message, "in-reply-to"))
    found += reversed(_ID.findall(header_of(message, "references")))
    return list(dict.fromkeys(found))[:MAX_REFERENCES]


def why_held(
    bound: Bound, sender: str | None, *, authentic: bool | None, required: bool = False
) -> InboundReason | None:
    """Return why an email is held, None if it is posted.

    What a customer would see, and what no secret address vouches for, needs a sender who authenticates.
    """
    if bound.held is not None:
        return bound.held
    if sender is None or sender not in bound.addresses:
        return InboundReason.OTHER_SENDER
    must = required or not bound.is_proven or bound.kind is not InboundKind.MESSAGE
    if authentic is False or (must and not authentic):
        return InboundReason.NOT_AUTHENTICATED
    return InboundReason.EXPIRED if bound.expired and not authentic else None


_PEOPLE: Final = "select id, email, role from people where lower(email) = any($1::text[]) and not deleted limit $2"
_OWN: Final = f"""
select opened.conversation_id, opened.user_id, people.email
from inbound_emails as opened
    join people on people.id = opened.user_id and not people.deleted
    left join marks on marks.conversation_id = opened.conversation_id
where opened.conversation_id = any($1::uuid[]) and opened.kind = '{InboundKind.CONVERSATION}'
    and opened.state = 'posted' and marks.deleted_at is null
order by opened.id desc limit 1
"""  # noqa: S608 - built from constants
