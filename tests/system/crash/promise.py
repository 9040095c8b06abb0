"""The guarantees after a crash and a restart; each function yields violations."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from services.conversations.event_log.payloads import READ_MESSAGE_ID, READ_PAYLOAD
from shared.events import is_relevant
from tests.helpers.smtp_server import ReceivedEmail
from tests.system.crash.scenario import DELETED, MORE_POSTS, POSTS, End, Step

Rows = list[asyncpg.Record]
Connections = Mapping[str, "asyncpg.Connection[Any]"]
Ends = Mapping[str, set[End]]

MOST_COPIES = 2


@dataclass(frozen=True)
class State:
    """The whole state: responses, store, log, inbox, notifications, emails, and the mail server's copies."""

    answers: dict[str, Any]
    messages: Rows
    counts: dict[UUID, int]
    events: Rows
    head: int
    inbox: Rows
    cursor: int
    records: Counter[UUID]
    emails: dict[str, Rows]
    tries: dict[UUID, Counter[str]]
    joined: Counter[UUID]
    copies: Counter[str]
    statuses: dict[UUID, End]
    told: Counter[tuple[UUID, str]]

    @property
    def posts(self) -> Iterator[Step]:
        """Return the acknowledged posts to conversations that were not deleted, without repetitions."""
        for step in (*POSTS, *MORE_POSTS):
            if (
                step.name in self.answers
                and step.key is None
                and self.conversation(step) != self.answers[DELETED]["id"]
            ):
                yield step

    def conversation(self, step: Step) -> str:
        """Return the id of the conversation that a step created or used."""
        made = re.search(r"\{([\w-]+)\}", step.path)
        return str(self.answers[made[1] if made else step.name]["id"])

    def uncertain(self, recipient: str) -> int:
        """Return how many attempts of emails to a recipient were uncertain."""
        return sum(self.tries[email["id"]]["uncertain"] for email in self.emails.get(recipient, []))


async def read_state(databases: Connections, answers: dict[str, Any], taken: list[ReceivedEmail]) -> State:
    """Read the whole state."""
    conversations, notifications = databases["conversations"], databases["notifications"]
    tries: dict[UUID, Counter[str]] = defaultdict(Counter)
    for row in await notifications.fetch("select email_id, outcome from email_tries"):
        tries[row["email_id"]][row["outcome"]] += 1
    emails: dict[str, Rows] = defaultdict(list)
    for row in await notifications.fetch("select * from emails"):
        emails[row["recipient_id"]].append(row)
    counts = await conversations.fetch("select id, message_count from conversations")
    return State(
        answers=answers,
        messages=await conversations.fetch("select * from messages order by conversation_id, number"),
        counts={row["id"]: row["message_count"] for row in counts},
        events=await conversations.fetch(
            f"select id, type, position, {READ_PAYLOAD} as payload, ({READ_MESSAGE_ID})::text as message_id"  # noqa: S608 - built from constants
            " from events order by position"
        ),
        head=await conversations.fetchval("select head from feed"),
        inbox=await notifications.fetch("select event_id, handled_at, parked_at from inbox"),
        cursor=await notifications.fetchval("select position from feed_cursor"),
        records=Counter(row["message_id"] for row in await notifications.fetch("select message_id from notifications")),
        emails=emails,
        tries=tries,
        joined=Counter(row["message_id"] for row in await notifications.fetch("select message_id from email_messages")),
        copies=Counter(_message_id(email) for email in taken),
        statuses={
            row["id"]: (row["state"], row["reason"])
            for row in await conversations.fetch(
                "select id, data ->> 'state' as state, data ->> 'reason' as reason from conversation_entries"
                " where kind = 'email'"
            )
        },
        told=Counter(
            (row["id"], row["state"])
            for row in await conversations.fetch(
                "select (email ->> 'email_id')::uuid as id, email ->> 'state' as state"
                " from events, jsonb_array_elements(payload -> 'emails') as email where type = 'email.updated'"
            )
        ),
    )


def broken(state: State, undisturbed: State, ends: Ends, parked: set[UUID], uncertain: set[str]) -> Iterator[str]:
    """Yield every violation of the guarantees.

    `undisturbed` is the state after a run without a crash, `ends` the allowed final states of emails, `parked` the
    events that cannot be handled, `uncertain` the recipients of emails that were after their `data_at` at the crash.
    """
    yield from _store(state)
    yield from _log(state)
    yield from _inbox(state, parked)
    yield from _records(state)
    yield from _mails(state, ends)
    yield from _email_status(state)
    for recipient in state.emails:
        yield from _tries(state, recipient)
        more = state.uncertain(recipient) - undisturbed.uncertain(recipient)
        if more not in ({0, 1} if recipient in uncertain else {0}):
            yield f"{more} more attempts to {recipient} are uncertain than without a crash"


def _store(state: State) -> Iterator[str]:
    """Every acknowledged message is stored once, as acknowledged; the numbers have no gaps."""
    requested = Counter(text for step in state.posts if (text := _text(step)))
    stored = Counter(row["body"] for row in state.messages)
    if stored != requested:
        yield f"messages missing: {_list(requested - stored)}, duplicated or not requested: {_list(stored - requested)}"
    by_id = {str(row["id"]): row for row in state.messages}
    for step in state.posts:
        answer = state.answers[step.name]
        if "number" in answer and (row := by_id.get(answer["id"])) and row["number"] != answer["number"]:
            yield f"{step.name} was acknowledged as number {answer['number']}, but is {row['number']}"
        if "number" in answer and answer["id"] not in by_id:
            yield f"{step.name} was acknowledged, but is not stored"
    for conversation, count in state.counts.items():
        numbers = [row["number"] for row in state.messages if row["conversation_id"] == conversation]
        if numbers != list(range(1, count + 1)):
            yield f"a conversation of {count} messages has the numbers {numbers}"


def _log(state: State) -> Iterator[str]:
    """Positions have no gaps, and every message has one event."""
    positions = [row["position"] for row in state.events]
    if positions != list(range(1, state.head + 1)):
        yield f"the log ends at {state.head} and has the positions {positions}"
    logged = Counter(row["message_id"] for row in state.events if row["message_id"])
    stored = Counter(str(row["id"]) for row in state.messages)
    if logged != stored:
        yield f"events missing: {_list(stored - logged)}, duplicated: {_list(logged - stored)}"


def _inbox(state: State, parked: set[UUID]) -> Iterator[str]:
    """Every event was handled, or parked if it cannot be handled, and the cursor is at the end."""
    known = {
        row["id"] for row in state.events if is_relevant(row["type"], json.loads(row["payload"] or "null"))
    } - parked
    handled = {row["event_id"] for row in state.inbox if row["handled_at"]}
    actually_parked = {row["event_id"] for row in state.inbox if row["parked_at"]}
    if handled != known:
        yield f"events not handled: {_list(known - handled)}, handled and not logged: {_list(handled - known)}"
    if actually_parked != parked:
        yield f"events parked: {_list(actually_parked)}"
    if state.cursor != state.head:
        yield f"the cursor is at {state.cursor} of {state.head}"


def _records(state: State) -> Iterator[str]:
    """An admin's message has one notification; every message is in one email."""
    answers = Counter(row["id"] for row in state.messages if row["sender_role"] == "admin")
    if state.records != answers:
        yield f"notifications missing: {_list(answers - state.records)}, duplicated: {_list(state.records - answers)}"
    if state.joined != Counter(row["id"] for row in state.messages):
        yield f"{len(state.messages)} messages, of which emails have {state.joined.total()}"


def _mails(state: State, ends: Ends) -> Iterator[str]:
    """There is one email to each recipient, in an allowed final state."""
    written_to = {name.removeprefix("open-") for name in state.answers if name.startswith("open-")}
    counts = {recipient: len(emails) for recipient, emails in state.emails.items()}
    # The conversation with Gina was deleted before its event was handled, so there is no email to her.
    if set(counts) | {"gina"} != written_to | {"support"} or set(counts.values()) != {1}:
        yield f"emails by recipient: {counts}"
    for recipient, emails in state.emails.items():
        for email in emails:
            end, lost = (email["state"], email["reason"]), state.tries[email["id"]]["uncertain"]
            lost_twice = end == ("failed", "uncertain") and lost == MOST_COPIES
            if end not in ends[recipient] and not lost_twice:
                yield f"the email to {recipient} ended as {end} after {dict(state.tries[email['id']])}"


def _email_status(state: State) -> Iterator[str]:
    """What became of an email is in the timeline, unless it was not needed; and no state was told twice."""
    ended = {
        email["id"]: (email["state"], email["reason"])
        for emails in state.emails.values()
        for email in emails
        if email["conversation_id"] in state.counts
        and (email["reason"] != "read" or email["next_attempt_at"] > email["due_at"])
    }
    differ = {
        key: (ended.get(key), state.statuses.get(key))
        for key in ended.keys() | state.statuses.keys()
        if ended.get(key) != state.statuses.get(key)
    }
    if differ:
        yield f"emails ended, and are in the timeline, as {differ}"
    if repeated := [key for key, count in state.told.items() if count > 1]:
        yield f"told more than once: {_list(repeated)}"


def _tries(state: State, recipient: str) -> Iterator[str]:
    """Every attempt is recorded; an email is received twice only after a lost reply, with the same Message-ID."""
    for email in state.emails[recipient]:
        tries, copies = state.tries[email["id"]], state.copies[email["message_id"]]
        accepted, lost = tries["accepted"], tries["uncertain"]
        description = f"the email to {recipient} is {email['state']}, its attempts were {dict(tries)}, copies: {copies}"
        if accepted != (email["state"] == "sent") or email["uncertain_tries"] != lost:
            yield f"{description}: the records differ"
        if not accepted <= copies <= min(accepted + lost, MOST_COPIES):
            yield f"{description}: it was lost, or repeated without a cause"
    known = {email["message_id"] for emails in state.emails.values() for email in emails}
    if strangers := set(state.copies) - known:
        yield f"the server has unknown emails: {_list(strangers)}"


def _text(step: Step) -> str | None:
    body = step.body or {}
    return body.get("body") or body.get("reply_body")


def _message_id(email: ReceivedEmail) -> str:
    found = re.search(rb"(?im)^message-id:\s*(\S+)", email.content)
    return found[1].decode() if found else ""


def _list(items: Iterable[Any]) -> list[str]:
    return sorted(map(str, items))
