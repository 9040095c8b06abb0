"""Post emails that came in as messages of their conversations, through the conversations service.

Each conversation's emails go in the order of their arrival. The call names the row, so that a call that is repeated
after a crash, or whose answer was lost, posts nothing again. The first of a line waits for an outage as long as that
lasts, because no other could go either. If it fails for itself, it waits 15 minutes, is then held, and the next one
goes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID, uuid4

import httpx2
import structlog

from services.notifications.event_log.append import INBOUND_UPDATED_SQL
from services.notifications.inbound.introductions import Known
from services.notifications.inbound.mime import FilePart, parse_email
from services.notifications.inbound.reading import read_text
from services.notifications.mail.fingerprints import Fingerprints
from services.notifications.rules import HEAD_WAITS, InboundReason, InboundState
from shared.database import ConnectionProvider, Driver
from shared.failpoints import failpoint
from shared.text import is_visible

LEASE_SECONDS: Final = 120  # for reading an email, and sending its files and its text
CALL_SECONDS: Final = 30.0
RETRY_SECONDS: Final = (1, 2, 5, 10, 20, 30)  # after an outage or a failure; the last one repeats
MAX_TRIES: Final = 20  # after which an email whose last attempt ended without a result is held
BATCH: Final = 20  # emails of different conversations at once
MAX_FILES: Final = 10
MAX_BODY: Final = 10_000
# Bytes of an email that is read in the event loop, in some milliseconds: a thread at work would keep the loop waiting
# longer, because it gives way every 5 ms only. Larger ones are read in a thread.
SMALL: Final = 64 * 1024
QUOTED_EMAILS: Final = 20  # the newest emails of a conversation that a reply may quote

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Store:
    """What an email of ours says of the store: names and addresses that stand above a quote of it, and its URL."""

    names: Sequence[str]
    addresses: Sequence[str]
    public_url: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What becomes of an email: the text and the files of a message, and what was left out."""

    body: str
    files: Sequence[FilePart]
    reason: InboundReason | None = None


class Outage(Exception):  # noqa: N818 - as others name it
    """The conversations service cannot be reached, or does not work for anything."""


class Failure(Exception):  # noqa: N818 - as above
    """The conversations service did not accept this email. It may be tried again."""


class TooLarge(Exception):  # noqa: N818 - as above
    """A file is larger than the conversations service accepts."""


class Ended(Exception):  # noqa: N818 - an end, not an error
    """The email will never be posted."""

    def __init__(self, state: InboundState, reason: InboundReason) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


async def post_due(acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store) -> int:
    """Post the first email of each line that is due; return how many were tried."""
    lease = uuid4()
    async with acquire() as connection:
        await connection.execute(_HOLD_DEADLY, MAX_TRIES)
        rows = await connection.fetch(_CLAIM, lease, LEASE_SECONDS, BATCH)
    failpoint("inbound-claimed")
    await asyncio.gather(*(_post(acquire, client, store, row, lease) for row in rows))
    return len(rows)


async def _post(
    acquire: ConnectionProvider, client: httpx2.AsyncClient, store: Store, row: Mapping[str, Any], lease: UUID
) -> None:
    failing = False
    try:
        reply = await _read(acquire, store, row)
        message, left_out = await _send(client, row, reply)
        reason = InboundReason.FILES_LEFT_OUT if left_out else reply.reason
    except Ended as end:
        async with acquire() as connection:
            await _end(connection, row["id"], lease, end.state, end.reason)
        return
    except Outage as error:
        log.warning("conversations service unavailable, email waits", inbound_id=str(row["id"]), error=str(error))
    except Exception as error:
        failing = True
        log.warning("email not posted, retrying", inbound_id=str(row["id"]), error=f"{type(error).__name__}: {error}")
        log.debug("email not posted", exc_info=True)
    else:
        failpoint("inbound-posted")
        async with acquire() as connection:
            await connection.execute(_POSTED, row["id"], lease, UUID(message["id"]), message["number"], reason)
        failpoint("inbound-recorded")
        log.info("email posted", inbound_id=str(row["id"]), message_id=message["id"])
        return
    delay = RETRY_SECONDS[min(row["tries"], len(RETRY_SECONDS) - 1)]
    async with acquire() as connection:
        await connection.execute(_RETRY, row["id"], lease, delay, failing, HEAD_WAITS)


async def _read(acquire: ConnectionProvider, store: Store, row: Mapping[str, Any]) -> Reply:
    async with acquire() as connection:
        found = await connection.fetchrow(_CONTEXT, row["id"], QUOTED_EMAILS)
    if found is None or found["original"] is None:  # erased meanwhile
        raise Ended(InboundState.REFUSED, InboundReason.CONVERSATION_DELETED)
    known = Known(
        addresses=store.addresses,
        names=store.names,
        recipient=[value for value in (found["email"], found["to_address"], found["name"]) if value],
        subject=found["subject"] or "",
        url_parts=[store.public_url, str(row["conversation_id"])],
    )
    if len(found["original"]) <= SMALL:
        return read_reply(found["original"], found["fingerprints"], known)
    return await asyncio.to_thread(read_reply, found["original"], found["fingerprints"], known)


def read_reply(original: bytes, fingerprints: Sequence[bytes], known: Known) -> Reply:
    """Return what an email becomes. Raises `Ended` for one with nothing in it."""
    email = parse_email(original)
    text = read_text(email, Fingerprints(fingerprints), known).text.replace("\x00", "")
    files = list(email.files)
    if len(text) > MAX_BODY:
        files.insert(0, FilePart("message.txt", "text/plain", text.encode("utf-8", "replace")))
        text = f"{text[: MAX_BODY - 1].rstrip()}\u2026"
    files = [file for file in files if file.stored]
    if not is_visible(text):
        text = ""
    if not text and not files:
        raise Ended(InboundState.IGNORED, InboundReason.EMPTY)
    reason = InboundReason.FILES_LEFT_OUT if len(files) > MAX_FILES or email.incomplete else None
    return Reply(text.encode("utf-8", "replace").decode(), files[:MAX_FILES], reason)


async def _send(client: httpx2.AsyncClient, row: Mapping[str, Any], reply: Reply) -> tuple[dict[str, Any], bool]:
    """Send the files, then the text; return the message, and whether files were left out for their size."""
    ids: list[str] = []
    left_out = False
    for position, file in enumerate(reply.files):
        content = file.content
        params: dict[str, str | int] = {
            "inbound_id": str(row["id"]),
            "conversation_id": str(row["conversation_id"]),
            "user_id": row["user_id"],
            "position": position,
            "name": file.name[:255],
            "size": len(content),
            "inline": str(file.inline).lower(),
        }
        try:
            answer = await _call(client, "/internal/inbound/files", params=params, content=content)
        except TooLarge:
            left_out = True
            continue
        failpoint("inbound-file-sent")
        ids += [answer["id"]] if answer["id"] else []
    body = {
        "conversation_id": str(row["conversation_id"]),
        "user_id": row["user_id"],
        "body": reply.body,
        "attachments": ids,
        "read_up_to": row["read_up_to"],
    }
    return await _call(client, f"/internal/inbound/{row['id']}", json=body), left_out


async def _call(client: httpx2.AsyncClient, path: str, **request: Any) -> dict[str, Any]:
    """Call the conversations service; return its answer. Raises `Outage`, `Failure` or `Ended`."""
    try:
        response = await client.post(path, **request)
    except httpx2.HTTPError as error:
        raise Outage(type(error).__name__) from None
    match response.status_code:
        case HTTPStatus.OK | HTTPStatus.CREATED:
            answer: dict[str, Any] = response.json()
            return answer
        case HTTPStatus.NOT_FOUND:
            raise Ended(InboundState.REFUSED, InboundReason.CONVERSATION_DELETED)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge
        case HTTPStatus.FORBIDDEN:
            raise Ended(InboundState.REFUSED, InboundReason.NO_LONGER_ALLOWED)
        case HTTPStatus.UNAUTHORIZED:
            raise Outage("CHATS_INBOUND_SECRET differs from that of the conversations service")
        case HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.BAD_GATEWAY | HTTPStatus.GATEWAY_TIMEOUT:
            raise Outage(str(response.status_code))
        case _:
            raise Failure(str(response.status_code))


async def _end(connection: Driver, email_id: UUID, lease: UUID, state: InboundState, reason: InboundReason) -> None:
    await connection.execute(_END, email_id, lease, state, reason)
    log.info("email not posted", inbound_id=str(email_id), state=state, reason=reason)


# Attempts that end in any other way give the lease back: this one has ended its process, or taken too long.
_HOLD_DEADLY: Final = f"""
with deadly as (
    update inbound_emails set state = '{InboundState.HELD}', reason = '{InboundReason.NOT_ACCEPTED}', lease_id = null,
        lease_until = null
    where state = '{InboundState.RECEIVED}' and lease_until < clock_timestamp() and tries >= $1
    returning id
)
{INBOUND_UPDATED_SQL} deadly
"""  # noqa: S608 - built from constants
# The first of each conversation's line. The conditions are checked again when the row is locked.
_CLAIM: Final = f"""
update inbound_emails set lease_id = $1, lease_until = clock_timestamp() + make_interval(secs => $2), tries = tries + 1
where id = any(array(
        select id from (
            select distinct on (conversation_id) id, next_attempt_at, lease_until from inbound_emails
            where state = '{InboundState.RECEIVED}' order by conversation_id, id
        ) as head
        where next_attempt_at <= clock_timestamp() and (lease_until is null or lease_until < clock_timestamp())
        order by id limit $3
    ))
    and state = '{InboundState.RECEIVED}' and (lease_until is null or lease_until < clock_timestamp())
returning id, conversation_id, user_id, read_up_to, tries
"""  # noqa: S608 - built from constants
_CONTEXT: Final = """
select inbound.original, people.email, people.name, emails.to_address, emails.subject, array(
    select address.fingerprints
    from emails as other join reply_addresses as address on address.email_id = other.id
    where other.conversation_id = inbound.conversation_id and other.recipient_id = inbound.user_id
    order by other.id desc limit $2
) as fingerprints
from inbound_emails as inbound
    join emails on emails.id = inbound.email_id
    left join people on people.id = inbound.user_id
where inbound.id = $1
"""
_POSTED: Final = f"""
update inbound_emails set state = '{InboundState.POSTED}', message_id = $3, message_number = $4, reason = $5,
    lease_id = null, lease_until = null, failing_since = null, finished_at = clock_timestamp()
where id = $1 and lease_id = $2 and state = '{InboundState.RECEIVED}'
"""  # noqa: S608 - built from constants
# The deletion that the conversations service knows of may have been handled here before the email came.
_END: Final = f"""
update inbound_emails set state = $3, reason = $4, lease_id = null, lease_until = null, finished_at = clock_timestamp(),
    original = case when not deleted then original end, from_address = case when not deleted then from_address end
from (
    select $4 = '{InboundReason.CONVERSATION_DELETED}' or exists (
        select from people join inbound_emails as ended on ended.user_id = people.id where ended.id = $1 and deleted
    ) as deleted
) as its
where id = $1 and lease_id = $2 and state = '{InboundState.RECEIVED}'
"""  # noqa: S608 - built from constants
_RETRY: Final = f"""
with tried as (
update inbound_emails set
    next_attempt_at = clock_timestamp() + make_interval(secs => $3), lease_id = null, lease_until = null,
    failing_since = case when $4 then coalesce(failing_since, clock_timestamp()) end,
    state = case when failed_for > $5 then '{InboundState.HELD}' else state end,
    reason = case when failed_for > $5 then '{InboundReason.NOT_ACCEPTED}' end
from (
    select case when $4 then extract(epoch from clock_timestamp() - failing_since) end as failed_for
    from inbound_emails where id = $1
) as so_far
where id = $1 and lease_id = $2 and inbound_emails.state = '{InboundState.RECEIVED}'
returning id, inbound_emails.state
)
{INBOUND_UPDATED_SQL} tried where state = '{InboundState.HELD}'
"""  # noqa: S608 - built from constants
