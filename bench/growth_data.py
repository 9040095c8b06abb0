"""Three years of a store's conversations, generated in the database: about as many messages as requested.

As in real stores, few customers have very many conversations, and few conversations very many messages; recent ones are
open and partly unread, old ones are closed. The latest `RECENT` count as recent, however old: with these, a small
store's lists fill a page, as a large one's do. Rows are inserted in the order of their times, with all indexes, so that
table and indexes lie on disk as if they had been written one by one.
"""

import asyncpg

MESSAGES_A_TALK = 10  # on average; most have fewer
LONGEST = 20_000  # messages
RECENT = 800  # conversations, at least: 40 of them are open and unread
ADMINS = 20


async def fill(superuser_url: str, messages: int) -> None:
    """Fill an empty, migrated conversations database, and leave it vacuumed and analysed."""
    talks = max(messages // MESSAGES_A_TALK, 1)
    numbers = {"talks": talks, "customers": max(talks // 3, 1), "longest": LONGEST, "admins": ADMINS, "recent": RECENT}
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute("set session_replication_role = replica")  # the data needs no foreign key checks
        await connection.execute("set work_mem = '512MB'; set jit = off; select setseed(0.5)")
        for statement in (_PLAN, _PEOPLE, _ORDERS, _LABELS, _CONVERSATIONS, _MESSAGES, _LAST, _ENTRIES, _EVENTS):
            await connection.execute(statement.format(**numbers))
        await connection.execute("vacuum (analyze)")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


# The parameters of each conversation. The cube of a random number gives the first customers most of them.
_PLAN = """
create temp table plan as
with chances as materialized (
    select n, floor({customers} * random() ^ 3)::int as customer,
        least({longest}, ceil(2 * random() ^ -0.8))::int as messages,
        interval '3 years' * random() as age, random() as pace, random() as dice, random() as reader
    from generate_series(1, {talks}) as n
), times as (
    select *, now() - age as started, least(interval '12 hours' * pace, age / messages) as apart from chances
), ends as materialized (
    select *, started + apart * (messages - 1) as ended,
        row_number() over (order by started + apart * (messages - 1) desc) as newest
    from times
)
select *, uuidv7(started - clock_timestamp()) as id, case
        when ended < now() - interval '30 days' and newest > {recent}
            then case when dice < 0.9 then 'CLOSED' when dice < 0.995 then 'RESOLVED' else 'AWAITING_USER' end
        when dice < 0.1 then 'OPEN' when dice < 0.3 then 'AWAITING_ADMIN' when dice < 0.6 then 'AWAITING_USER'
        when dice < 0.8 then 'RESOLVED' else 'CLOSED'
    end as status
from ends order by started;
analyze plan
"""

_PEOPLE = """
insert into users (id, role, name, email, synced_at)
select 'C-' || n, 'customer', 'Customer ' || md5(n::text), 'customer-' || n || '@example.test', now()
from generate_series(0, {customers} - 1) as n;
insert into users (id, role, name, email, synced_at)
select 'A-' || n, 'admin', 'Admin ' || n, 'admin-' || n || '@store.test', now()
from generate_series(0, {admins} - 1) as n
"""

# Every second conversation is about an order of its own.
_ORDERS = """
insert into orders (id, user_id, number, status, total, currency, placed_at, url, items, synced_at)
select 'O-' || n, 'C-' || customer, (1000 + n)::text, 'shipped', '59.90', 'EUR', started - interval '2 days',
    'https://store.test/orders/' || n,
    '[{{"name": "Desk lamp", "quantity": 1, "unit_price": "39.90"}},
      {{"name": "Bulb", "quantity": 2, "unit_price": "10.00"}}]', started
from plan where n % 2 = 0 order by started
"""

# Of the first, a twentieth of the conversations; of the second, a thousandth.
_LABELS = "insert into labels (name, folded) values ('late', 'late'), ('broken', 'broken')"

_CONVERSATIONS = """
insert into conversations (
    id, user_id, order_id, subject, status, is_read_by_admin, is_read_by_user, read_by_admin_number,
    read_by_user_number, message_count, last_admin_number, last_customer_number, last_message_role,
    last_message_preview, created_at, last_activity_at, changed_at, unanswered_since, assignee_id, label_ids,
    first_reply_at
)
select id, 'C-' || customer, case when n % 2 = 0 then 'O-' || n end, 'Where is parcel ' || n || '?', status,
    read_by_admin, read_by_user, messages - (not read_by_admin)::int, messages - (not read_by_user)::int, messages,
    messages - waits::int, messages - (not waits)::int, case when waits then 'customer' else 'admin' end,
    'Your parcel left our warehouse this morning.', started, ended, ended, case when waits then ended end,
    case when status <> 'OPEN' then 'A-' || n % {admins} end,
    case when n % 20 = 0 then array[1] when n % 1001 = 0 then array[1, 2] else '{{}}' end,
    case when status <> 'OPEN' then started + apart end
from (
    select *, status in ('OPEN', 'AWAITING_ADMIN') as waits,
        not (status in ('OPEN', 'AWAITING_ADMIN') and reader < 0.5) as read_by_admin,
        not (status = 'AWAITING_USER' and reader < 0.5 or status = 'CLOSED' and reader < 0.02) as read_by_user
    from plan
) as known
order by started
"""

# The sides alternate, so that the last message comes from the right side for the status.
_MESSAGES = """
insert into messages (id, conversation_id, number, sender_id, sender_role, body, created_at)
select uuidv7(at - clock_timestamp()), id, number,
    case when by_customer then 'C-' || customer else 'A-' || n % {admins} end,
    case when by_customer then 'customer' else 'admin' end,
    repeat('Your parcel left our warehouse this morning. ', 1 + (n + number) % 8), at
from (
    select id, n, customer, number, started + apart * (number - 1) as at,
        (messages - number) % 2 = case when status in ('OPEN', 'AWAITING_ADMIN') then 0 else 1 end as by_customer
    from plan cross join lateral generate_series(1, messages) as number
    order by at offset 0
) as written
"""

_LAST = """
update conversations as c set last_message_id = m.id
from messages as m where m.conversation_id = c.id and m.number = c.message_count and c.status <> 'CLOSED';
update conversations set last_message_id = uuidv7() where last_message_id is null
"""

# An assignment in most conversations, and a note in every tenth.
_ENTRIES = """
insert into conversation_entries (conversation_id, at, after_number, kind, actor_id, data)
select id, last_activity_at, message_count, 'assignment', assignee_id,
    jsonb_build_object('from', null, 'to', assignee_id)
from conversations where assignee_id is not null;
insert into conversation_entries (conversation_id, at, after_number, kind, actor_id, data)
select id, ended, messages, 'note', 'A-' || n % {admins},
    jsonb_build_object('body', 'Called them.', 'mentions', '[]'::jsonb)
from plan where n % 10 = 0
"""

# The log covers a month, and is numbered.
_EVENTS = """
insert into events (position, type, user_id, conversation_id, payload, occurred_at, numbered_at)
select row_number() over (order by m.id), 'message.posted', c.user_id, c.id, jsonb_build_object(
        'conversation_id', c.id, 'subject', c.subject,
        'message', jsonb_build_object('id', m.id, 'number', m.number, 'sender_role', m.sender_role, 'body', m.body,
            'created_at', m.created_at),
        'sender', jsonb_build_object('id', m.sender_id, 'version', 1, 'deleted', false),
        'customer', jsonb_build_object('id', c.user_id, 'version', 1, 'deleted', false)
    ), m.created_at, m.created_at
from messages as m join conversations as c on c.id = m.conversation_id
where m.created_at > now() - interval '30 days';
update feed set head = (select coalesce(max(position), 0) from events)
"""
