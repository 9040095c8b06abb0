"""What an email becomes: its text, its files, and the subject of a conversation that it opens."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from services.notifications.inbound.calls import Ended, Reply
from services.notifications.inbound.parsing.mime import FilePart, ParsedEmail, parse_email
from services.notifications.inbound.quotes.introductions import Known
from services.notifications.inbound.quotes.reply_text import read_own_words, read_text
from services.notifications.mail.fingerprints import Fingerprints
from services.notifications.rules import InboundKind, InboundReason, InboundState
from shared.database.engine import Driver
from shared.database.transactions import ConnectionProvider
from shared.text import is_visible, one_line, preview

MAX_FILES: Final = 10
MAX_BODY: Final = 10_000
MAX_SUBJECT: Final = 200
SUBJECT_OF_TEXT: Final = 80  # characters of a subject that is the start of the text
# Bytes of an email that is read in the event loop, in some milliseconds: a thread at work would keep the loop waiting
# longer, because it gives way every 5 ms only. Larger ones are read in a thread.
SMALL: Final = 64 * 1024
WHOLE: Final = 4 * 2**20  # bytes of an email that is read from the database at once
QUOTED_EMAILS: Final = 20  # of a conversation that a reply may quote: the one it answers, and the newest


@dataclass(frozen=True, slots=True)
class Store:
    """What an email of ours says of the store: names and addresses that stand above a quote of it, and its URL."""

    names: Sequence[str]
    addresses: Sequence[str]
    public_url: str


async def read_contexts(acquire: ConnectionProvider, rows: Sequence[Mapping[str, Any]]) -> dict[UUID, dict[str, Any]]:
    """Return what it takes to read emails: their bytes, and what they may quote."""
    async with acquire() as connection:
        found = await connection.fetch(_CONTEXT, [row["id"] for row in rows], QUOTED_EMAILS, WHOLE)
        contexts = {row["id"]: dict(row) for row in found}
        for row in rows:
            if row["size"] > WHOLE and row["id"] in contexts:
                contexts[row["id"]]["original"] = await _in_pieces(connection, row["id"], row["size"])
    return contexts


async def _in_pieces(connection: Driver, email_id: UUID, size: int) -> bytes | None:
    """Return the bytes of a large email: the driver holds three times what it reads at once."""
    whole = BytesIO()  # gives its bytes without a copy
    for start in range(0, size, WHOLE):
        piece = await connection.fetchval(_PIECE, email_id, start + 1, WHOLE)
        if piece is None:  # erased meanwhile
            return None
        whole.write(piece)
    return whole.getvalue()


async def read_email(store: Store, row: Mapping[str, Any], context: Mapping[str, Any] | None) -> Reply:
    """Read an email that is due. Raises `Ended` for one with nothing in it, or erased meanwhile."""
    if context is None or context["original"] is None:  # erased meanwhile
        raise Ended(InboundState.REFUSED, InboundReason.CONVERSATION_DELETED)
    known = Known(
        addresses=store.addresses,
        names=store.names,
        recipient=[value for value in (context["email"], context["to_address"], context["name"]) if value],
        subject=context["subject"] or "",
        url_parts=[store.public_url, str(row["conversation_id"]), f"{store.public_url.rstrip('/')}/admin/"],
    )
    by_hand = row["posted_by"] is not None
    kind = InboundKind(row["kind"])
    read = partial(_read_reply, context["original"], context["fingerprints"], known, kind, by_hand=by_hand)
    reply = read() if len(context["original"]) <= SMALL else await asyncio.to_thread(read)
    return replace(reply, mentions=context["mentions"])


def _read_reply(
    original: bytes, fingerprints: Sequence[bytes], known: Known, kind: InboundKind, *, by_hand: bool = False
) -> Reply:
    """Return what an email becomes. Raises `Ended` for one with nothing in it, or that an admin must look at.

    `by_hand`: one has looked at it.
    """
    email = parse_email(original)
    text = _text(email, Fingerprints(fingerprints), known, kind, by_hand=by_hand).replace("\x00", "")
    files = [] if kind is InboundKind.NOTE else list(email.files)
    if len(text) > MAX_BODY:
        files.insert(0, FilePart("message.txt", "text/plain", text.encode("utf-8", "replace")))
        text = f"{text[: MAX_BODY - 1].rstrip()}\u2026"
    files = [file for file in files if file.stored]
    if not is_visible(text):
        text = ""
    if not text and not files and kind is InboundKind.ADMIN_MESSAGE and not by_hand:
        raise Ended(InboundState.HELD, InboundReason.UNCERTAIN_QUOTE)
    if not text and not files:
        raise Ended(InboundState.IGNORED, InboundReason.EMPTY)
    has_more = kind is InboundKind.NOTE and any(not file.inline for file in email.files)  # a note has no files
    left_out = len(files) > MAX_FILES or email.incomplete or has_more
    reason = InboundReason.FILES_LEFT_OUT if left_out else None
    text = text.encode("utf-8", "replace").decode()
    subject = _subject_of(email.header("subject"), text, files) if kind is InboundKind.CONVERSATION else None
    return Reply(text, files[:MAX_FILES], reason, subject)


def _text(email: ParsedEmail, ours: Fingerprints, known: Known, kind: InboundKind, *, by_hand: bool) -> str:
    if kind in {InboundKind.MESSAGE, InboundKind.CONVERSATION}:
        return read_text(email, ours, known).text
    own = read_own_words(email, ours, known)
    if own is None and kind is InboundKind.ADMIN_MESSAGE and not by_hand:
        raise Ended(InboundState.HELD, InboundReason.UNCERTAIN_QUOTE)
    return read_text(email, ours, known).text if own is None else own


def _subject_of(header: str, text: str, files: Sequence[FilePart]) -> str:
    """Return the subject of a conversation: that of the email, else the start of its text, or the name of a file."""
    for candidate in (header, text, *(file.name for file in files)):
        line = " ".join(one_line(candidate.replace("\x00", "").encode("utf-8", "replace").decode()).split())
        if is_visible(line):
            return preview(line, MAX_SUBJECT if candidate is header else SUBJECT_OF_TEXT)
    return "Email"


_PIECE: Final = "select substr(original, $2::int, $3::int) from inbound_emails where id = $1"
# The notes and assignments in the email that a note answers: their authors learn of it.
_CONTEXT: Final = f"""
select inbound.id, case when inbound.size <= $3::int then inbound.original end as original,
    people.email, people.name, emails.to_address, emails.subject, array(
    select address.fingerprints
    from emails as other join reply_addresses as address on address.email_id = other.id
    where other.conversation_id = inbound.conversation_id
        and other.recipient_id = coalesce(emails.recipient_id, inbound.user_id)
    order by other.id = inbound.email_id desc nulls last, other.id desc limit $2
) as fingerprints,
case when inbound.kind = '{InboundKind.NOTE}' then array(
    select distinct sender_id from email_messages
    where email_id = inbound.email_id and notification_id is not null and sender_id <> inbound.user_id
    limit $2
) else '{{}}' end as mentions
from inbound_emails as inbound
    left join emails on emails.id = inbound.email_id
    left join people on people.id = inbound.user_id
where inbound.id = any($1::uuid[])
"""  # noqa: S608 - built from constants
