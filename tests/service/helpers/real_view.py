"""The content of both databases in the form of the model's `Pipeline.view`, read with one query each."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
"""The time at which the model's clock is 0."""


def since(moment: str | datetime | None) -> int | None:
    """Return a time as the model counts it, in microseconds since `EPOCH`."""
    if moment is None:
        return None
    read = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return (read - EPOCH) // timedelta(microseconds=1)


async def read_view(
    conversations: "asyncpg.Connection[Any]", notifications: "asyncpg.Connection[Any]", talks: Sequence[str]
) -> dict[str, Any]:
    """Return the databases' content; conversations have their index in `talks` as id, events that in the log."""
    store = json.loads(await conversations.fetchval(_STORE))
    found = json.loads(await notifications.fetchval(_NOTIFIER))
    indexes = {event: index for index, (event, *_) in enumerate(store["log"])}
    number = {talk: index for index, talk in enumerate(talks)}
    mails = sorted((_mail(number[talk], mail) for talk, *mail in found["mails"]), key=lambda mail: mail[:-1])
    trips, until = found["gate"]
    return {
        "log": [tuple(entry) for _, *entry in store["log"]],
        "talks": {number[talk]: tuple(rest) for talk, *rest in store["talks"]},
        "inbox": {indexes[event]: tuple(rest) for event, *rest in found["inbox"]},
        "people": {user: tuple(rest) for user, *rest in found["people"]},
        "marks": {number[talk]: tuple(rest) for talk, *rest in found["marks"]},
        "records": {(number[talk], message): tuple(rest) for talk, message, *rest in found["records"]},
        "mails": [mail[:-1] for mail in mails],
        "mail_ids": [UUID(mail[-1]) for mail in mails],
        "tries": sorted(found["tries"]),
        "breaker": (trips, since(until)),
        "cursor": found["cursor"],
        "head": store["head"],
    }


def _mail(talk: int, found: list[Any]) -> tuple[Any, ...]:
    audience, lines, state, reason, tries, stands, due, identity = found
    due_at = since(due) if state == "scheduled" else 0
    return talk, audience, tuple(map(tuple, lines)), state, reason, tuple(tries), tuple(stands), due_at, identity


def _all(table: str, *columns: str, order: str = "1", where: str = "true") -> str:
    row = f"jsonb_build_array({', '.join(columns)})"
    return f"(select coalesce(jsonb_agg({row} order by {order}), '[]') from {table} where {where})"  # noqa: S608 - built from constants


_STORE = f"""
select jsonb_build_object(
    'log', {_all("events", "id", "position", "payload is null", order="seq")},
    'talks', {
    _all(
        "conversations",
        "id",
        "status",
        "is_read_by_admin",
        "is_read_by_user",
        "read_by_user_number",
        "read_by_admin_number",
        "message_count",
    )
},
    'head', (select head from feed)
)::text
"""  # noqa: S608 - built from constants

_LINES = _all("email_messages", "number", "left_out", order="number", where="email_id = emails.id")

_NOTIFIER = f"""
select jsonb_build_object(
    'inbox', {
    _all("inbox", "event_id", "attempts", "handled_at is not null", "parked_at is not null", "event is not null")
},
    'people', {_all("people", "id", "version", "email", "deleted")},
    'marks', {
    _all(
        "marks",
        "conversation_id",
        "read_by_user_number",
        "read_by_admin_number",
        "deleted_at is not null",
        where="greatest(read_by_user_number, read_by_admin_number) > 0 or deleted_at is not null",
    )
},
    'records', {_all("notifications", "conversation_id", "number", "user_id", "read_at is not null")},
    'mails', {
    _all(
        "emails",
        "conversation_id",
        "audience",
        _LINES,
        "state",
        "coalesce(reason, '')",
        "jsonb_build_array(counted_tries, uncertain_tries)",
        "jsonb_build_array(claimed_at is not null, lease_id is not null, data_at is not null,"
        " coalesce(to_address, ''))",
        "next_attempt_at",
        "id",
    )
},
    'tries', (select coalesce(jsonb_agg(outcome), '[]') from email_tries),
    'gate', (select jsonb_build_array(breaker_trips, breaker_until) from gate),
    'cursor', (select position from feed_cursor)
)::text
"""  # noqa: S608 - built from constants
