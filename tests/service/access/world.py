"""The data for the table: users whose texts all contain their name, and both databases' content as text.

Everything that belongs to a user contains `canary-<name>`, so a response shows whose data is in it.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx2
from fastapi import FastAPI
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

from services.conversations.app import create_app as create_conversations_app
from services.conversations.attachments.file_store import PICTURE, THUMBNAIL, chunked
from services.conversations.event_log.sequencer import number_events
from services.conversations.models import Base as ConversationsBase
from services.conversations.models import Erasure
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.mail.unsubscribe_links import unsubscribe_token
from services.notifications.models import Base as NotificationsBase
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.database.engine import Driver
from shared.database.transactions import (
    ConnectionProvider,
    SessionFactory,
    create_sessions,
    transaction,
    transaction_driver,
)
from shared.people import Person
from tests.service.access.asgi import Answer, ask
from tests.service.access.credentials import (
    ADMIN,
    DELETED,
    DELETED_ADMIN,
    OTHER,
    OWNER,
    ROLES,
    Credential,
    Wallet,
    sign_in,
)
from tests.service.access.table import SENT, Row
from tests.service.conftest import FEED_SECRET, SECRET
from tests.service.helpers.browser import store_token
from tests.service.helpers.callers import UNKNOWN_ID, Caller
from tests.service.helpers.connected import connect
from tests.service.helpers.event_factory import email_settings, posted, receive, user_changed

CANARY = re.compile(r"canary-\w+")
UUIDS = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
MODELS = {"conversations": ConversationsBase, "notifications": NotificationsBase}
# What every visit changes, and events log nothing of: the session's last use.
_PASSING = "- 'last_seen_at'"

State = tuple[str, ...]


@dataclass(repr=False)
class World:
    """Both applications, each on a connection that is rolled back after every request, and their data."""

    apps: Mapping[str, FastAPI]
    connections: Mapping[str, AsyncConnection]
    wallet: Wallet
    owners: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    owners_ids: set[str] = field(default_factory=set)
    before: dict[str, State] = field(default_factory=dict)

    async def play(
        self,
        row: Row,
        credential: Credential,
        *,
        missing: bool = False,
        method: str | None = None,
        target: str | None = None,
    ) -> Answer:
        """Send a row's request, about the owner's or about missing data; method and path may differ."""
        values = {**(self.missing if missing else self.owners), "token": credential.token}
        sent = filled(SENT[row.sent], values) if row.sent else None
        headers = {**credential.headers, **({"X-CSRF-Token": credential.csrf} if credential.csrf else {})}
        content: dict[str, Any] = {"json_body": sent}
        if row.is_page and not row.is_safe:
            content = {"form": {**(sent or {}), "csrf_token": credential.csrf}}
        target = filled(row.target, values) if target is None else target
        return await ask(self.apps[row.service], method or row.method, target, headers, **content)

    @asynccontextmanager
    async def undone(self, service: str) -> AsyncIterator[None]:
        """Roll back everything done in the context."""
        work = await self.connections[service].begin()
        await self.connections[service].execute(text("select"))  # the driver begins only now
        try:
            yield
        finally:
            await work.rollback()

    async def state(self, service: str) -> State:
        """Return every row of every table as text."""
        tables = MODELS[service].metadata.sorted_tables
        rows = [f"select '{table}: ' || (to_jsonb(t) {_PASSING})::text from {table} as t" for table in tables]  # noqa: S608 - our own tables
        return tuple(sorted(await self.connections[service].scalars(text(" union all ".join(rows)))))

    def of_owner(self, state: State) -> State:
        """Return the rows that belong to the owner or to the owner's data."""
        return tuple(row for row in state if OWNER in row or any(owned in row for owned in self.owners_ids))

    def revealed(self, answer: Answer, row: Row) -> set[str]:
        """Return the users whose data is in a response, apart from the requested ids."""
        requested = {filled(f"{{{name}}}", self.owners) for name in row.named - {"user_id"}}
        content = answer.text.lower()
        for requested_id in requested:
            content = content.replace(requested_id, "")
        return {*CANARY.findall(content)} | ({OWNER} if any(owned in content for owned in self.owners_ids) else set())


def filled(pattern: Any, values: Mapping[str, str]) -> Any:
    """Replace the placeholders in a string, or in all strings of a structure."""
    if isinstance(pattern, str):
        return re.sub(r"{(\w+)}", lambda match: values[match[1]], pattern)
    if isinstance(pattern, dict):
        return {name: filled(inner, values) for name, inner in pattern.items()}
    return [filled(value, values) for value in pattern] if isinstance(pattern, list) else pattern


@asynccontextmanager
async def built(
    databases: Mapping[str, str], engines: Mapping[str, AsyncEngine], files_url: str
) -> AsyncIterator[World]:
    """Build a world; its data stays in the databases."""
    conversations = create_conversations_app(
        ConversationsSettings(
            conversations_database_url=databases["conversations"],
            auth_secret=[SECRET],
            feed_secret=FEED_SECRET,
            store_name="Test Store",
            redis_url=None,
            files_url=files_url,
        )
    )
    notifications = create_notifications_app(
        NotificationsSettings(
            notifications_database_url=databases["notifications"],
            auth_secret=[SECRET],
            feed_secret=FEED_SECRET,
            store_name="Test Store",
        )
    )
    async with (
        conversations.router.lifespan_context(conversations),
        notifications.router.lifespan_context(notifications),
        engines["conversations"].connect() as conversations_connection,
        engines["notifications"].connect() as notifications_connection,
    ):
        apps = {"conversations": conversations, "notifications": notifications}
        ids, wallet = await _populate(apps, {service: create_sessions(engine) for service, engine in engines.items()})
        world = World(
            apps, {"conversations": conversations_connection, "notifications": notifications_connection}, wallet
        )
        _name(world, ids)
        for service, connection in world.connections.items():
            connect(apps[service], _on(connection), _provider(connection))
            async with world.undone(service):
                world.before[service] = await world.state(service)
        yield world


def _on(connection: AsyncConnection) -> SessionFactory:
    return async_sessionmaker(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")


def _provider(connection: AsyncConnection) -> ConnectionProvider:
    @asynccontextmanager
    async def acquire() -> AsyncIterator[Driver]:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        yield driver

    return acquire


def _name(world: World, ids: dict[str, dict[str, str]]) -> None:
    """Set the values of the rows' placeholders."""
    always = {
        "kind": "messages",
        "holding": "emails",
        "what": "test",
        "file": "/page.js",
        "docs_file": "/swagger-ui.css",
        "position": ids["log"]["position"],
    }
    world.owners = (
        ids[OWNER]
        | always
        | {
            "ids": f"{ids[OWNER]['conversation_id']}&ids={ids[OTHER]['conversation_id']}",
            "others_conversation_id": ids[OTHER]["conversation_id"],
        }
    )
    unknown = {name: UNKNOWN_ID if UUIDS.fullmatch(value) else "nobody" for name, value in ids[OWNER].items()}
    unknown["delivery_id"] = "999999999"
    world.missing = unknown | always | {"ids": UNKNOWN_ID, "others_conversation_id": ids[OTHER]["conversation_id"]}
    world.owners_ids = {*ids[OWNER].values()} - {OWNER, ids[OWNER]["delivery_id"]}


async def _populate(
    apps: Mapping[str, FastAPI], sessions: Mapping[str, SessionFactory]
) -> tuple[dict[str, dict[str, str]], Wallet]:
    """Create all users' data and sign them in; return the ids by owner, and the credentials."""
    ids: dict[str, dict[str, str]] = {}
    app = apps["conversations"]
    connect(app, sessions["conversations"])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://chats.test") as client:
        shop = Caller(client, "/api/v1/store", bearer("shop", "store"))
        for admin in (ADMIN, DELETED_ADMIN):
            profile = {"role": "admin", "name": admin.removeprefix("canary-").title(), "email": f"{admin}@store.test"}
            await shop.call("PUT", f"/users/{admin}", profile)
        sam = Caller(client, "/api/v1/admin", bearer(ADMIN, "admin"))
        for user_id in (OWNER, OTHER, DELETED):
            ids[user_id] = await _create_data(client, shop, sam, user_id)
        await _make_thumbnails(app, sessions["conversations"], ids)
        async with transaction(sessions["conversations"]) as session:
            await number_events(await transaction_driver(session))
            for user_id in (OWNER, OTHER, DELETED):  # as if each had been erased and restored
                session.add(erasure := Erasure(user_id=user_id, finished_at=func.clock_timestamp()))
                await session.flush()
                ids[user_id]["erasure_id"] = str(erasure.id)
        answer = await sam.call("GET", "/conversations")
        ids["log"] = {"position": answer.headers["x-position"]}
        wallet = await _sign_in(app, shop, sessions["conversations"])
    await _notify(sessions["notifications"], ids)
    return ids, wallet


async def _sign_in(app: FastAPI, shop: Caller, sessions: SessionFactory) -> Wallet:
    """Sign everybody in twice, expire the first sessions, and delete some users."""
    ended = {user_id: await sign_in(app, user_id) for user_id in ROLES}
    async with transaction(sessions) as session:
        await session.execute(text("update sessions set last_seen_at = last_seen_at - interval '13 hours'"))
    cookies = {user_id: await sign_in(app, user_id) for user_id in ROLES}
    for user_id in (DELETED, DELETED_ADMIN):
        await shop.call("DELETE", f"/users/{user_id}")
    return Wallet(cookies, ended)


async def _create_data(client: httpx2.AsyncClient, shop: Caller, sam: Caller, user_id: str) -> dict[str, str]:
    """Create a customer's orders and conversations with replies. One is closed, so that it can be deleted."""
    await shop.call("PUT", f"/users/{user_id}", {"name": f"{user_id} name", "email": f"{user_id}@customer.test"})
    item = {"name": f"{user_id} item", "quantity": 1, "unit_price": "1.00"}
    order = {**SENT["order"], "user_id": user_id, "number": f"{user_id}-number", "items": [item]}
    for number in ("-2", ""):
        await shop.call("PUT", f"/orders/{user_id}-order{number}", order | {"url": f"https://store.test/{user_id}-url"})
    customer = Caller(client, "/api/v1", bearer(user_id))
    await customer.open(subject=f"{user_id} another subject")
    subject = f"{user_id} subject"
    conversation = (
        await customer.open(subject=subject, order_id=f"{user_id}-order", body=f"{user_id} body", key=f"{user_id}-key")
    )["id"]
    sent, unsent = [(await customer.upload(f"{user_id} file".encode(), f"{user_id}.txt"))["id"] for _ in range(2)]
    await customer.post(conversation, attachments=[sent])
    reply = (await sam.post(conversation, f"{user_id} reply"))["id"]
    last = (await customer.post(conversation, f"{user_id} thanks"))["id"]
    await sam.edit(conversation, reply_body=f"{user_id} bye", status="CLOSED")
    await sam.call("POST", f"/conversations/{conversation}/viewing", {})
    await sam.call("PATCH", f"/conversations/{conversation}/labels", {"add": [f"{user_id}-label"]})
    note = (await sam.call("POST", f"/conversations/{conversation}/notes", {"body": f"{user_id} note"})).json()
    reply_fields = {"shortcut": f"{user_id}-shortcut", "title": f"{user_id} title", "body": f"{user_id} canned"}
    canned_reply = (await sam.call("POST", "/canned-replies", reply_fields)).json()
    hook = (await shop.call("POST", "/webhooks", {"url": "https://store.test/", "types": ["message.posted"]})).json()
    delivery = (await shop.call("POST", f"/webhooks/{hook['id']}/test")).json()
    if user_id == OTHER:  # so that the counts differ
        await customer.call("POST", f"/conversations/{conversation}/read", {"up_to": 5})
    return {
        "user_id": user_id,
        "order_id": f"{user_id}-order",
        "conversation_id": conversation,
        "attachment_id": sent,
        "unsent_id": unsent,
        "reply_id": reply,
        "last_id": last,
        "message_id": last,
        "note_id": note["id"],
        "canned_reply_id": canned_reply["id"],
        "label": f"{user_id}-label",
        "webhook_id": hook["id"],
        "delivery_id": str(delivery["id"]),
    }


async def _make_thumbnails(app: FastAPI, sessions: SessionFactory, ids: Mapping[str, dict[str, str]]) -> None:
    """Give each sent file a thumbnail, as the process does that makes them."""
    for user_id, names in ids.items():
        for suffix in (THUMBNAIL, PICTURE):
            await app.state.files.write(UUID(names["attachment_id"]), chunked(f"{user_id} {suffix}".encode()), suffix)
    async with transaction(sessions) as session:
        await session.execute(text("update attachments set thumbnail = 'ready' where message_id is not null"))


async def _notify(sessions: SessionFactory, ids: dict[str, dict[str, str]]) -> None:
    """Create a notification and an email for each reply; the owner's email has failed."""
    settings = email_settings("postgresql://unused")
    for user_id in (OWNER, OTHER, DELETED):
        person = Person(id=user_id, version=1, name=f"{user_id} name", email=f"{user_id}@customer.test")
        conversation = UUID(ids[user_id]["conversation_id"])
        for number in (1, 2):
            await receive(sessions, settings, posted(conversation, number, body=f"{user_id} reply", customer=person))
    await receive(sessions, settings, posted(UUID(ids[OWNER]["conversation_id"]), 3, by="customer"))  # for the admins
    for user_id in (DELETED, DELETED_ADMIN):
        await receive(sessions, settings, user_changed(Person(id=user_id, version=2, deleted=True)))
    async with transaction(sessions) as session:
        await session.execute(text("update notifications set subject = user_id || ' subject'"))
        await session.execute(text(f"update notifications set read_at = created_at where user_id = '{OTHER}'"))  # noqa: S608 - a constant
        await session.execute(
            text(
                "update emails set state = 'failed', reason = 'rejected', finished_at = now() where state = 'scheduled'"
            )
        )
        records = await session.execute(text("select user_id, id, message_id from notifications"))
        for user_id, row_id, message_id in records.all():
            ids[user_id] |= {"notification_id": str(row_id), "notified_id": str(message_id)}
        await session.execute(_INBOUND)
        inbound = await session.execute(text("select user_id, id from inbound_emails"))
        for user_id, row_id in inbound.all():
            ids[user_id]["inbound_id"] = str(row_id)
        for names in ids.values():
            names["event_id"] = str(await session.scalar(_PARKED))
        await session.execute(_SUPPRESSED)
        suppressed = await session.execute(text("select user_id, id from suppressions"))
        for user_id, row_id in suppressed.all():
            ids[user_id]["suppression_id"] = str(row_id)
        emails = await session.execute(text("select recipient_id, id from emails"))
        key = (await session.scalars(text("select leave_key from gate"))).one()
        for recipient, row_id in emails.all():
            ids[recipient] |= {"email_id": str(row_id), "unsubscribe_token": unsubscribe_token(key, row_id)}


_INBOUND = text("""
    insert into inbound_emails
        (conversation_id, email_id, user_id, read_up_to, same_as, from_address, size, original, state)
    select conversation_id, id, recipient_id, 1, id::text, recipient_id || '@customer.test', 4, 'text', 'held'
    from emails
""")


_PARKED = text("""
    insert into inbox (event_id, type, parked_at, reason) values (uuidv7(), 'x', now(), 'failed') returning event_id
""")


_SUPPRESSED = text("""
    insert into suppressions (address_hash, user_id, email_id, reason, status)
    select sha256(recipient_id::bytea), recipient_id, id, 'mailbox-unknown', '5.1.1' from emails
""")


def bearer(sub: str, role: str = "customer", **claims: Any) -> dict[str, str]:
    """Return the header with a token of the store."""
    return {"Authorization": f"Bearer {store_token(sub, role, **claims)}"}
