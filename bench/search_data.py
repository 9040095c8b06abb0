"""Two years of conversations whose words are as frequent as in a language: few of them are most of the text."""

import asyncio
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import accumulate, chain, pairwise
from uuid import UUID

import asyncpg

MESSAGES_A_TALK = 10  # on average
WORDS_A_MESSAGE = 25
VOCABULARY = 200_000
SPAN = 2 * 365 * 86_400.0  # seconds
STEP = 5_000  # conversations written at once
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@cache
def words() -> Sequence[str]:
    """Return the vocabulary, most frequent word first: the word at place n is in 1/n of the text."""
    generator, found = random.Random(7), dict[str, None]()
    while len(found) < VOCABULARY:
        found["".join(generator.choices(_SYLLABLES, k=generator.randint(2, 4)))] = None
    return list(found)


async def fill(superuser_url: str, talks: int) -> Sequence[str]:
    """Fill an empty, migrated conversations database, a process for each core; return some of the messages."""
    connection = await asyncpg.connect(superuser_url)
    await connection.execute(_PEOPLE.format(customers=max(talks // 3, 1)))
    begin = time.time() - SPAN
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        steps = processes.map(partial(_fill_step, superuser_url, talks, begin), range(0, talks, STEP))
        samples = list(chain.from_iterable(await asyncio.to_thread(list, steps)))
    await connection.execute(_PROGRESS)
    await connection.execute("vacuum (analyze)")
    await connection.close()
    return samples


def _fill_step(superuser_url: str, talks: int, begin: float, first: int) -> Sequence[str]:
    generator, vocabulary = random.Random(first), words()
    weights = list(accumulate(1 / place for place in range(1, len(vocabulary) + 1)))

    def text(length: int) -> str:
        return " ".join(generator.choices(vocabulary, cum_weights=weights, k=length))

    conversations, messages = [], []
    for index in range(first, min(first + STEP, talks)):
        started, count = begin + SPAN * index / talks, generator.randint(1, 2 * MESSAGES_A_TALK - 1)
        talk = _uuid(generator, started)
        customer = f"C-{generator.randrange(max(talks // 3, 1))}"
        conversations.append((talk, customer, text(4), started, started + 600.0 * count, count))
        for number in range(1, count + 1):
            body, at = text(WORDS_A_MESSAGE), started + 600.0 * number
            messages.append((_uuid(generator, at), talk, number, customer, "customer", body, at))
    asyncio.run(_write(superuser_url, conversations, messages))
    return [message[5] for message in messages[:20]]


async def _write(
    superuser_url: str, conversations: Sequence[Sequence[object]], messages: Sequence[Sequence[object]]
) -> None:
    connection = await asyncpg.connect(superuser_url)
    await connection.execute("set session_replication_role = replica")  # the data needs no foreign key checks
    await connection.execute(_STAGE)
    for table, columns, rows in (
        ("staged_conversations", "id, user_id, subject, started, ended, count", conversations),
        ("staged_messages", "id, conversation_id, number, sender_id, sender_role, body, at", messages),
    ):
        await connection.copy_records_to_table(table, records=rows, columns=columns.split(", "))
    await connection.execute(_STEP)
    await connection.close()


def _uuid(generator: random.Random, at: float) -> UUID:
    return UUID(
        int=int(at * 1000) << 80 | 7 << 76 | generator.getrandbits(12) << 64 | 2 << 62 | generator.getrandbits(62)
    )


def sequences(samples: Sequence[str], places: range, vocabulary: Sequence[str]) -> Iterator[str]:
    """Yield pairs of neighbours in messages that are both words at these places of the vocabulary."""
    wanted = set(vocabulary[places.start : places.stop])
    for sample in samples:
        parts = sample.split()
        yield from (f"{one} {two}" for one, two in pairwise(parts) if {one, two} <= wanted)


_PEOPLE = """
    insert into users (id, role, name, email, synced_at)
    select 'C-' || n, 'customer', 'Customer ' || md5(n::text), 'customer-' || n || '@example.test', now()
    from generate_series(0, {customers} - 1) as n;
    insert into users (id, role, name) values ('A-0', 'admin', 'Admin')
"""
_STAGE = """
    create temp table staged_conversations (
        id uuid, user_id text, subject text, started float8, ended float8, count int
    );
    create temp table staged_messages (
        id uuid, conversation_id uuid, number int, sender_id text, sender_role text, body text, at float8
    )
"""
_STEP = """
    insert into conversations (
        id, user_id, subject, status, is_read_by_admin, is_read_by_user, message_count, last_customer_number,
        created_at, last_activity_at, changed_at
    )
    select id, user_id, subject, case when random() < 0.9 then 'CLOSED' else 'OPEN' end, random() < 0.9, true, count,
        count, to_timestamp(started), to_timestamp(ended), to_timestamp(ended)
    from staged_conversations;
    insert into messages (id, conversation_id, number, sender_id, sender_role, body, created_at)
    select id, conversation_id, number, sender_id, sender_role, body, to_timestamp(at) from staged_messages
"""
_PROGRESS = "update search_progress set fill_before = 'ffffffff-ffff-ffff-ffff-ffffffffffff'"
