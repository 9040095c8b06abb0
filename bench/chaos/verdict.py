"""Compare what was acknowledged with the store, the log, the inbox, the notifications and the emails."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from bench.chaos.history import History, Posted
from bench.chaos.mailroom import Mailroom
from services.conversations.event_log.payloads import READ_MESSAGE_ID
from services.notifications.rules import MAX_UNCERTAIN_ATTEMPTS
from shared.broker.celery_app import TASKS

MAX_COPIES = MAX_UNCERTAIN_ATTEMPTS


@dataclass
class Verdict:
    """The result. All `faults` should be 0; `facts` are for the table."""

    faults: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def found(self) -> dict[str, int]:
        """Return the faults that occurred."""
        return {name: count for name, count in self.faults.items() if count}


async def state_of(conversations: str, notifications: str) -> tuple[bool, object]:
    """Return whether everything is numbered, read, sent and told to webhooks, and a measure of progress."""
    store, notifier = await asyncpg.connect(conversations), await asyncpg.connect(notifications)
    try:
        head, unnumbered, told, emails_read, to_tell, tellings = await _row(store, _STORE_STATE)
        position, emails_head, handled, waiting, attempts = await _row(notifier, _NOTIFIER_STATE)
    finally:
        await store.close()
        await notifier.close()
    at_end = unnumbered == 0 and min(position, told) >= head and emails_read >= emails_head
    return at_end and waiting == to_tell == 0, (
        *(head, unnumbered, told, emails_read, to_tell, tellings),
        *(position, handled, waiting, attempts),
    )


_STORE_STATE = """
    select head, (select count(*) from events where position is null),
        (select position from webhook_progress), (select position from notifications_cursor),
        (select count(*) from webhook_deliveries where state = 'pending'),
        (select sum(attempts) from webhook_deliveries)
    from feed
"""
_NOTIFIER_STATE = """
    select position, (select head from feed) + (select count(*) from events where position is null),
        (select count(*) from inbox where handled_at is not null),
        (select count(*) from emails where finished_at is null)
            + (select count(*) from inbound_emails where state = 'received'),
        (select count(*) from email_tries)
    from feed_cursor
"""


async def compare(conversations: str, notifications: str, history: History, mail_server: Mailroom) -> Verdict:
    """Compare by SQL in both databases."""
    verdict = Verdict()
    store = await asyncpg.connect(conversations)
    await _load(store, history)
    verdict.faults |= await _count(store, _IN_THE_STORE)
    stored = await store.fetch("select id from messages where sender_role = 'admin'")
    events = await store.fetch("select id from events where type = any($1)", list(TASKS))
    by_email = Counter(row[0] for row in await store.fetch(_BY_EMAIL))
    verdict.facts["events in the log"] = await store.fetchval("select count(*) from events")
    await store.close()

    notifier = await asyncpg.connect(notifications)
    await _load(notifier, history)
    await _fill(notifier, "stored (id uuid)", [tuple(row) for row in stored])
    await _fill(notifier, "logged (id uuid)", [tuple(row) for row in events])
    verdict.faults |= await _count(notifier, _IN_THE_RECORDS)
    await _compare_emails(notifier, history, mail_server, verdict)
    await _compare_replies(notifier, history, by_email, verdict)
    await notifier.close()
    return verdict


async def _load(connection: "asyncpg.Connection[Any]", history: History) -> None:
    posts = [(posted.id, posted.by_admin) for posted in history.kept]
    await _fill(connection, "acknowledged (id uuid, by_admin bool)", posts)
    await _fill(connection, "gone (id uuid)", [(conversation.id,) for conversation in history.deleted])


async def _row(connection: "asyncpg.Connection[Any]", query: str) -> tuple[Any, ...]:
    return tuple(await connection.fetchrow(query) or ())


async def _fill(connection: "asyncpg.Connection[Any]", table: str, rows: Iterable[Sequence[Any]]) -> None:
    await connection.execute(f"create temp table {table}")
    await connection.copy_records_to_table(table.split(maxsplit=1)[0], records=rows)
    await connection.execute(f"analyze {table.split(maxsplit=1)[0]}")


async def _count(connection: "asyncpg.Connection[Any]", queries: dict[str, str]) -> dict[str, int]:
    counts = {}
    for name, query in queries.items():
        counts[name] = await connection.fetchval(f"select count(*) from ({query}) as found")  # noqa: S608 - our own
    return counts


_IN_THE_STORE = {
    "acknowledged, but not in the store": "select id from acknowledged except select id from messages",
    "in the store twice": "select body from messages where body like 'chaos-%' group by body having count(*) > 1",
    "gaps in a conversation's numbers": """
        select c.id from conversations as c left join messages as m on m.conversation_id = c.id
        group by c.id having c.message_count <> count(m.id) or c.message_count <> coalesce(max(m.number), 0)""",
    "messages without an event, or with two": f"""
        select m.id from messages as m left join events
        on events.conversation_id = m.conversation_id and {READ_MESSAGE_ID} = m.id
        group by m.id having count(events.id) <> 1""",  # noqa: S608 - built from constants
    "events without a position": "select id from events where position is null",
    "gaps in the positions": "select from feed where head <> (select count(*) from events)",
    "deleted, but still in the store or the log": """
        select id from gone where id in (select id from conversations)
        or id in (select conversation_id from events where type = 'message.posted' and payload is not null)""",
}

_IN_THE_RECORDS = {
    "without a notification": "select id from acknowledged where by_admin except select message_id from notifications",
    "with two notifications": "select message_id from notifications group by message_id having count(*) > 1",
    "notifications without a message": "select message_id from notifications except select id from stored",
    "events not handled": "select id from logged except select event_id from inbox where handled_at is not null",
    "events handled but not logged": "select event_id from inbox except select id from logged",
    "parked events": "select event_id from inbox where parked_at is not null",
    "in no email": "select id from acknowledged where by_admin except select message_id from email_messages",
    "in two emails": "select message_id from email_messages group by message_id having count(*) > 1",
    "unfinished emails": "select id from emails where finished_at is null or state in ('scheduled', 'sending')",
    "deleted, but still in notifications or emails": """
        select id from gone where id in (select conversation_id from notifications)
        or id in (select conversation_id from emails where subject is not null or content is not null)""",
}

_MAILS = """
    select state, reason, message_id, array(
        select phase from email_tries as t where t.email_id = e.id and t.outcome = 'uncertain' order by t.id
    ) as uncertain
    from emails as e
"""
_SENT = """
    select m.message_id::text from email_messages as m join emails as e on e.id = m.email_id
    where e.state = 'sent' and not m.left_out
"""


async def _compare_emails(
    notifier: "asyncpg.Connection[Any]", history: History, mail_server: Mailroom, verdict: Verdict
) -> None:
    """Compare every email with the copies that the server received, and count the causes of repeated copies."""
    states: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    wrong = Counter({"recorded as sent, but not accepted by the server": 0})
    unknown = set(mail_server.copies)
    async with notifier.transaction():
        async for state, reason, message_id, uncertain in notifier.cursor(_MAILS):
            states[state if reason is None else f"{state}: {reason}"] += 1
            copies = mail_server.copies[message_id] if message_id in unknown else 0
            unknown.discard(message_id)
            wrong["recorded as sent, but not accepted by the server"] += state == "sent" and copies == 0
            wrong["accepted by the server, but not recorded as sent"] += (
                state != "sent" and copies > 0 and not uncertain
            )
            wrong[f"more than {MAX_COPIES} copies"] += copies > MAX_COPIES
            wrong["repeated without a cause"] += max(0, copies - 1 - len(uncertain))
            causes.update(_CAUSES.get(phase, phase) for phase in uncertain[: max(0, copies - 1)])
    wrong["emails with an unknown Message-ID"] = len(unknown)
    sent = {row[0] for row in await notifier.fetch(_SENT)}
    wrong["missing from the email that was sent for it"] = sum(
        _is_missing(posted, sent, mail_server) for posted in history.kept
    )
    verdict.faults |= dict(wrong)
    verdict.facts |= {"emails": states, "repeated": causes, "copies": mail_server.copies.total()}


_BY_EMAIL = "select substring(body from 'chaos-([0-9a-f]{16})') from messages where via = 'email'"


async def _compare_replies(
    notifier: "asyncpg.Connection[Any]", history: History, by_email: Counter[str], verdict: Verdict
) -> None:
    """Compare the replies that were answered with 250 with the messages, and with the rows of emails."""
    query = "select substring(same_as from '<([0-9a-f]{16})@'), state, reason, conversation_id from inbound_emails"
    rows = await notifier.fetch(query)
    ends = {row[0]: (row[1], row[2]) for row in rows}
    deleted = {conversation.id for conversation in history.deleted}
    kept = {token for token, conversation in history.replied.items() if conversation not in deleted}
    verdict.faults |= {
        "replies acknowledged, but no message": sum(by_email[token] == 0 for token in kept),
        "replies posted twice": sum(count > 1 for count in by_email.values()),
        "replies not posted, but not refused for a deletion": sum(
            row[1] != "posted" and str(row[3]) not in deleted for row in rows
        ),
        "messages of replies that were never sent": len(by_email.keys() - ends.keys()),
    }
    verdict.facts |= {
        "replies by email acknowledged": len(history.replied),
        "replies refused": history.refused_replies,
        "replies ended as": Counter(
            state if reason is None else f"{state}: {reason}" for state, reason in ends.values()
        ),
    }


_CAUSES = {"end-of-data": "the reply after the dot was lost", "lease": "the sender died after its DATA"}


def _is_missing(posted: Posted, sent: set[str], mail_server: Mailroom) -> bool:
    return posted.by_admin and posted.id in sent and posted.token not in mail_server.tokens
