"""What the table is played on: people whose every word is marked with their name, and both databases as text.

Whatever is somebody's has `canary-<name>` in it, so that an answer tells by itself whose things it holds.
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
from services.conversations.event_log.sequencer import number_events
from services.conversations.models import Base as ConversationsBase
from services.conversations.models import Erasure
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.notifications.app import create_app as create_notifications_app
from services.notifications.models import Base as NotificationsBase
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.database import ConnectionProvider, Driver, SessionFactory, create_sessions, transaction
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
# What a visit leaves behind, whatever becomes of it: that a session is used, and what there is to log.
_PASSING = "- 'last_seen_at'"

State = tuple[str, ...]


@dataclass(repr=False)
class World:
    """Both applications, each on a connection whose work is undone after every request, and what is in them."""

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
        """Send what a row says, about what is the owner's, or about what is not there; or the same elsewhere."""
        named = {**(self.missing if missing else self.owners), "token": credential.token}
        sent = filled(SENT[row.sent], named) if row.sent else None
        headers = {**credential.headers, **({"X-CSRF-Token": credential.csrf} if credential.csrf else {})}
        content: dict[str, Any] = {"json_body": sent}
        if row.is_page and not row.is_safe:
            content = {"form": {**(sent or {}), "csrf_token": credential.csrf}}
        target = filled(row.target, named) if target is None else target
        return await ask(self.apps[row.service], method or row.method, target, headers, **content)

    @asynccontextmanager
    async def undone(self, service: str) -> AsyncIterator[None]:
        """Undo at the end what is done meanwhile."""
        begun = await self.connections[service].begin()
        await self.connections[service].execute(text("select"))  # only now does the driver begin
        try:
            yield
        finally:
            await begun.rollback()

    async def state(self, service: str) -> State:
        """Return every row of every table."""
        tables = MODELS[service].metadata.sorted_tables
        rows = [f"select '{one}: ' || (to_jsonb(t) {_PASSING})::text from {one} as t" for one in tables]  # noqa: S608 - our own tables
        return tuple(sorted(await self.connections[service].scalars(text(" union all ".join(rows)))))

    def of_owner(self, state: State) -> State:
        """Return the rows that are the owner's, or are about what is."""
        return tuple(row for row in state if OWNER in row or any(one in row for one in self.owners_ids))

    def told(self, answer: Answer, row: Row) -> set[str]:
        """Return whose things are in an answer, besides the ids that were asked about."""
        asked = {filled(f"{{{name}}}", self.owners) for name in row.named - {"user_id"}}
        told = answer.text.lower()
        for one in asked:
            told = told.replace(one, "")
        return {*CANARY.findall(told)} | ({OWNER} if any(one in told for one in self.owners_ids) else set())


def filled(pattern: Any, named: Mapping[str, str]) -> Any:
    """Put what they stand for in the place of a pattern's placeholders."""
    if isinstance(pattern, str):
        return re.sub(r"{(\w+)}", lambda found: named[found[1]], pattern)
    if isinstance(pattern, dict):
        return {name: filled(value, named) for name, value in pattern.items()}
    return [filled(value, named) for value in pattern] if isinstance(pattern, list) else pattern


@asynccontextmanager
async def built(databases: Mapping[str, str], engines: Mapping[str, AsyncEngine]) -> AsyncIterator[World]:
    """Build a world; what is in it stays in the databases."""
    conversations = create_conversations_app(
        ConversationsSettings(
            conversations_database_url=databases["conversations"],
            auth_secret=[SECRET],
            feed_secret=FEED_SECRET,
            store_name="Test Store",
            redis_url=None,
        )
    )
    notifications = create_notifications_app(
        NotificationsSettings(
            notifications_database_url=databases["notifications"], auth_secret=[SECRET], store_name="Test Store"
        )
    )
    async with (
        conversations.router.lifespan_context(conversations),
        notifications.router.lifespan_context(notifications),
        engines["conversations"].connect() as one,
        engines["notifications"].connect() as two,
    ):
        apps = {"conversations": conversations, "notifications": notifications}
        ids, wallet = await _populate(apps, {service: create_sessions(engine) for service, engine in engines.items()})
        world = World(apps, {"conversations": one, "notifications": two}, wallet)
        _name(world, ids)
        for service, connection in world.connections.items():
            connect(apps[service], _on(connection), _lender(connection))
            async with world.undone(service):
                world.before[service] = await world.state(service)
        yield world


def _on(connection: AsyncConnection) -> SessionFactory:
    return async_sessionmaker(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")


def _lender(connection: AsyncConnection) -> ConnectionProvider:
    @asynccontextmanager
    async def acquire() -> AsyncIterator[Driver]:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        yield driver

    return acquire


def _name(world: World, ids: dict[str, dict[str, str]]) -> None:
    """Say what the placeholders of a row stand for."""
    always = {
        "kind": "messages",
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
    nobodys = {name: UNKNOWN_ID if UUIDS.fullmatch(value) else "nobody" for name, value in ids[OWNER].items()}
    world.missing = nobodys | always | {"ids": UNKNOWN_ID, "others_conversation_id": ids[OTHER]["conversation_id"]}
    world.owners_ids = {*ids[OWNER].values()} - {OWNER}


async def _populate(
    apps: Mapping[str, FastAPI], sessions: Mapping[str, SessionFactory]
) -> tuple[dict[str, dict[str, str]], Wallet]:
    """Let everybody do something and sign in; return the ids of what is whose, and the cookies."""
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
        for who in (OWNER, OTHER, DELETED):
            ids[who] = await _live(client, shop, sam, who)
        async with transaction(sessions["conversations"]) as session:
            await number_events(session)
            for who in (OWNER, OTHER, DELETED):  # each was erased before, and came back
                session.add(erasure := Erasure(user_id=who, finished_at=func.clock_timestamp()))
                await session.flush()
                ids[who]["erasure_id"] = str(erasure.id)
        answer = await sam.call("GET", "/conversations")
        ids["log"] = {"position": answer.headers["x-position"]}
        wallet = await _sign_in(app, shop, sessions["conversations"])
    await _notify(sessions["notifications"], ids)
    return ids, wallet


async def _sign_in(app: FastAPI, shop: Caller, sessions: SessionFactory) -> Wallet:
    """Let everybody sign in, one half of the browsers stay unused for too long, and some be deleted."""
    ended = {who: await sign_in(app, who) for who in ROLES}
    async with transaction(sessions) as session:
        await session.execute(text("update sessions set last_seen_at = last_seen_at - interval '13 hours'"))
    cookies = {who: await sign_in(app, who) for who in ROLES}
    for who in (DELETED, DELETED_ADMIN):
        await shop.call("DELETE", f"/users/{who}")
    return Wallet(cookies, ended)


async def _live(client: httpx2.AsyncClient, shop: Caller, sam: Caller, who: str) -> dict[str, str]:
    """Let a customer order, ask, be answered, and ask again; the conversation is closed, so that it can be deleted."""
    await shop.call("PUT", f"/users/{who}", {"name": f"{who} name", "email": f"{who}@customer.test"})
    item = {"name": f"{who} item", "quantity": 1, "unit_price": "1.00"}
    order = {**SENT["order"], "user_id": who, "number": f"{who}-number", "items": [item]}
    for number in ("-2", ""):
        await shop.call("PUT", f"/orders/{who}-order{number}", order | {"url": f"https://store.test/{who}-url"})
    customer = Caller(client, "/api/v1", bearer(who))
    await customer.open(subject=f"{who} another subject")
    subject = f"{who} subject"
    talk = (await customer.open(subject=subject, order_id=f"{who}-order", body=f"{who} body", key=f"{who}-key"))["id"]
    reply = (await sam.post(talk, f"{who} reply"))["id"]
    last = (await customer.post(talk, f"{who} thanks"))["id"]
    await sam.edit(talk, reply_body=f"{who} bye", status="CLOSED")
    await sam.call("POST", f"/conversations/{talk}/viewing", {})
    if who == OTHER:  # so that a number tells whose it is
        await customer.call("POST", f"/conversations/{talk}/read", {"up_to": 4})
    return {
        "user_id": who,
        "order_id": f"{who}-order",
        "conversation_id": talk,
        "reply_id": reply,
        "last_id": last,
    }


async def _notify(sessions: SessionFactory, ids: dict[str, dict[str, str]]) -> None:
    """Make a record and a mail of each answer; the owner's mail has failed."""
    settings = email_settings("postgresql://unused")
    for who in (OWNER, OTHER, DELETED):
        person = Person(id=who, version=1, name=f"{who} name", email=f"{who}@customer.test")
        talk = UUID(ids[who]["conversation_id"])
        for number in (1, 2):
            await receive(sessions, settings, posted(talk, number, body=f"{who} reply", customer=person))
    for who in (DELETED, DELETED_ADMIN):
        await receive(sessions, settings, user_changed(Person(id=who, version=2, deleted=True)))
    async with transaction(sessions) as session:
        await session.execute(text("update notifications set subject = user_id || ' subject'"))
        await session.execute(text(f"update notifications set read_at = created_at where user_id = '{OTHER}'"))  # noqa: S608 - a constant
        await session.execute(text("update emails set state = 'failed', reason = 'rejected' where state = 'scheduled'"))
        records = await session.execute(text("select user_id, id, message_id from notifications"))
        for user_id, identity, message_id in records.all():
            ids[user_id] |= {"notification_id": str(identity), "notified_id": str(message_id)}
        mails = await session.execute(text("select recipient_id, id from emails"))
        for recipient, identity in mails.all():
            ids[recipient]["email_id"] = str(identity)


def bearer(sub: str, role: str = "customer", **claims: Any) -> dict[str, str]:
    """Return the header of whoever has a token of the store."""
    return {"Authorization": f"Bearer {store_token(sub, role, **claims)}"}
