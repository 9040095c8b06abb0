"""The examples of the API reference are what the running services answer, and send.

After a change, `make api-reference` writes them anew: with UPDATE_EXAMPLES set, the test writes instead of comparing.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import unified_diff
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.api_reference.examples import EXAMPLES
from services.conversations.app import create_app as create_conversations_app
from services.conversations.attachments.picture_process import PictureProcess
from services.conversations.attachments.thumbnails import make_next_thumbnail
from services.conversations.attachments.uploads import MAX_OPEN, Upload, begin_upload
from services.conversations.identity.sessions import begin as begin_session
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.rate_limits.policy import LimitedAction, Limits
from services.conversations.realtime.stream_quota import STREAMS_PER_PERSON
from services.conversations.reports.facts import count_round
from services.conversations.rules import Side
from services.conversations.search import finding
from services.conversations.search.indexer import index_round
from services.conversations.settings import ApiSettings as ConversationsSettings
from services.conversations.webhooks.registry import MAX_WEBHOOKS, create_webhook, list_webhooks
from services.notifications.app import create_app as create_notifications_app
from services.notifications.settings import ApiSettings as NotificationsSettings
from shared.auth.cookies import cookie_name
from shared.auth.principal import Principal
from shared.auth.tokens import issue_session_token
from shared.database.transactions import SessionFactory, transaction
from shared.event_log.reading import read_head
from shared.settings import Role
from tests.helpers.awkward_files import picture
from tests.helpers.smtp_server import SmtpServer, smtp_server
from tests.helpers.sse_client import Reader
from tests.helpers.waiting import eventually
from tests.helpers.webhook_receiver import webhook_receiver
from tests.service.conftest import FEED_SECRET, INBOUND_SECRET, NOBODY, SECRET, As, serving
from tests.service.emails.test_follower import Following
from tests.service.helpers.callers import UNKNOWN_ID, Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.example_recorder import Person, Recorder, as_json
from tests.service.helpers.live_api import Live
from tests.service.helpers.sweeping import Sweeper
from tests.service.helpers.valkey_process import Valkey
from tests.service.inbound.rig import DOMAIN
from tests.service.inbound.test_bounces import REPORT
from tests.service.webhooks.conftest import ALL_TYPES, Hooks

pytestmark = pytest.mark.timeout(300)  # it starts everything, and calls every operation

PROVIDER = "Prov1der secret"
STORE_ORIGIN = "https://store.example"


@dataclass
class Product:
    """Both services over HTTP, what works beside them, and the callers."""

    record: Recorder
    live: Live
    hooks: Hooks
    following: Following
    smtp: SmtpServer
    valkey: Valkey
    app: Any
    conversations: SessionFactory
    notifications: SessionFactory
    customer: Person
    other: Person
    admin: Person
    colleague: Person
    operator: Person
    store: Person
    provider: Person
    nobody: Person

    async def catch_up(self) -> None:
        """Do what the other processes do: number, index, count, notify, send."""
        await self.live.number()
        while await index_round(self.conversations, settle=-1):
            pass
        while await count_round(self.conversations):
            pass
        settings = email_settings(
            "postgresql://unused",
            smtp_url=f"smtp://127.0.0.1:{self.smtp.port}",
            inbound_domain=DOMAIN,
            inbound_secret=SecretStr(INBOUND_SECRET),
        )
        await self.following.deliver(settings)
        await self.following.follow()
        await self.live.number()
        await self.hooks.settle()


@pytest.fixture
async def product(
    conversations: SessionFactory,
    notifications: SessionFactory,
    conversations_engine: AsyncEngine,
    databases: dict[str, str],
    files_url: str,
    valkey: Valkey,
    acting_as: As,
) -> AsyncIterator[Product]:
    ours = ConversationsSettings(
        conversations_database_url=databases["conversations"],
        auth_secret=[SECRET],
        feed_secret=FEED_SECRET,
        inbound_secret=INBOUND_SECRET,
        notifications_url=NOBODY,
        store_name="Teapots",
        store_origins=[STORE_ORIGIN],
        redis_url=None,
        files_url=files_url,
        webhook_private_hosts="127.0.0.1",
    )
    app = create_conversations_app(ours)
    theirs = NotificationsSettings(
        notifications_database_url=databases["notifications"],
        auth_secret=[SECRET],
        feed_secret=FEED_SECRET,
        store_name="Teapots",
        auth_permissions_claim="/permissions",
        inbound_domain=DOMAIN,
        inbound_secret=SecretStr(INBOUND_SECRET),
        inbound_http_secret=SecretStr(PROVIDER),
    )
    other_app = create_notifications_app(theirs)
    documents = app.openapi(), other_app.openapi()  # takes long, and nothing else runs meanwhile
    feed_headers = {"Authorization": f"Bearer {FEED_SECRET}"}
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, on_stop=app.state.hub.close))
        receiver = await stack.enter_async_context(webhook_receiver())
        smtp = await stack.enter_async_context(smtp_server())
        await stack.enter_async_context(other_app.router.lifespan_context(other_app))

        async def client(headers: dict[str, str] | None = None, *, to_conversations: bool = True) -> httpx2.AsyncClient:
            transport = None if to_conversations else httpx2.ASGITransport(app=other_app, raise_app_exceptions=False)
            url = f"http://127.0.0.1:{port}" if to_conversations else "http://chats.test"
            return await stack.enter_async_context(
                httpx2.AsyncClient(base_url=url, transport=transport, headers=headers, timeout=30)
            )

        api, notifications_api = await client(), await client(to_conversations=False)
        async with conversations() as session:
            epoch, _ = await read_head(session)
        shop = acting_as("shop", "store")
        sweeper = Sweeper(conversations, notifications, await client(feed_headers))
        ada = acting_as("ada", "admin", name="Ada", email="ada@store.example")
        yield Product(
            Recorder(
                [(api, documents[0]), (notifications_api, documents[1])],
                {receiver.url: f"{STORE_ORIGIN}/hooks/chats", f"127.0.0.1:{port}": "chats.example"},
            ),
            Live(ours, port, app.state.hub, conversations, epoch),
            Hooks(Caller(api, "/api/v1/store", shop), conversations, conversations_engine, receiver),
            Following(sweeper, await client(feed_headers, to_conversations=False)),
            smtp,
            valkey,
            app,
            conversations,
            notifications,
            customer=Person("CUSTOMER_TOKEN", acting_as("C-42", name="Cleo", email="cleo@customer.example")),
            other=Person("CUSTOMER_TOKEN", acting_as("C-43", name="Dean")),
            admin=Person("ADMIN_TOKEN", ada),
            colleague=Person("ADMIN_TOKEN", acting_as("ben", "admin", name="Ben", email="ben@store.example")),
            operator=Person("ADMIN_TOKEN", acting_as("ada", "admin", permissions=["operations"])),
            store=Person("STORE_TOKEN", shop),
            provider=Person("INBOUND_HTTP_SECRET", {"Authorization": f"Bearer {PROVIDER}"}),
            nobody=Person("", {}),
        )


async def test_the_examples_of_the_reference_are_what_the_services_answer(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        await sync_the_store(product)
        streams = {
            role: await stack.enter_async_context(
                product.live.reading(Caller(product.hooks.shop.api, "", caller.headers), after=after)
            )
            for role, caller, after in (
                ("customer", product.customer, None),
                ("admin", product.admin, None),
                ("lost", product.customer, "unknown"),
            )
        }
        await eventually(lambda: all(stream.opened for stream in streams.values()))
        conversation = await write(product)
        await work_at_the_desk(product, conversation)
        await notify(product, conversation)
        await take_emails_in(product, conversation)
        await refuse(product, conversation)
        await operate(product)
        await webhook(product)
        await delete(product, conversation)
        await product.catch_up()
        await collect_events(product, streams)
        await refuse_when_busy(product, monkeypatch)
    check_that_nothing_is_missing(product.record)
    written = as_json(product.record.document())
    if "UPDATE_EXAMPLES" in os.environ:
        EXAMPLES.write_text(written)
    differing = list(unified_diff(EXAMPLES.read_text().splitlines(), written.splitlines(), lineterm=""))
    assert not differing, "\n".join(["run `make api-reference`", *differing[:60]])


def check_that_nothing_is_missing(record: Recorder) -> None:
    """Check that there is an example of every operation, event and webhook."""
    documents = [document for _, document in record.services]
    described = {operation["operationId"] for document in documents for operation in operations(document)}
    assert described - {"stream_events"} == {*record.operations}, "add a call to the story"
    events = documents[0]["paths"]["/api/v1/stream"]["get"]["x-events"]
    sent = {(name, role) for name, event in events.items() for role in event["data"]}
    assert {(name, role) for name, sides in record.stream.items() for role in sides} == sent
    assert {*record.webhooks} == {*documents[0]["webhooks"]}


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


async def sync_the_store(product: Product) -> None:
    record, store = product.record, product.store
    user = {"name": "Cleo", "email": "cleo@customer.example", "role": "customer", "locale": "en-GB"}
    await record.json("put_user", store, user | {"updated_at": "2026-01-02T03:04:05Z"}, user_id="C-42")
    unusable = {"name": "Dean", "email": "dean@", "phone": "+43 1 234567"}
    await record.json("put_user", store, unusable, title="With values that cannot be used", user_id="C-43")
    for admin in ("ada", "ben"):
        profile = {"name": admin.title(), "role": "admin", "email": f"{admin}@store.example"}
        await record.json("put_user", store, profile, user_id=admin)
    order = {
        "user_id": "C-42",
        "number": "1007",
        "status": "shipped",
        "total": "59.90",
        "currency": "EUR",
        "placed_at": "2026-01-02T03:04:05Z",
        "url": f"{STORE_ORIGIN}/orders/1007",
        "items": [{"name": "Teapot", "quantity": 2, "unit_price": "29.95"}],
    }
    await record.json("put_order", store, order, order_id="A-1007")
    lines = (
        '{"type": "user", "id": "C-44", "name": "Eve", "email": "eve@customer.example"}\n'
        '{"type": "order", "id": "A-1008", "user_id": "C-44", "number": "1008", "status": "new"}\n'
    )
    await record.call("import_records", store, content=lines.encode(), headers={"Content-Type": "application/x-ndjson"})
    await record.json("get_connection", store)
    hook = {"url": product.hooks.receiver.url, "types": ALL_TYPES}
    created = await record.json("create_webhook", store, hook, headers={"Idempotency-Key": "webhook-1"})
    token = product.customer.headers["Authorization"].removeprefix("Bearer ")
    record.replaced[token] = "$CUSTOMER_TOKEN"
    await record.call(
        "begin_session",
        product.nobody,
        form={"token": token, "next": "/dashboard/messages/"},
        headers={"Origin": STORE_ORIGIN},
    )
    await record.json("end_sessions", store, user_id="C-42")
    assert created["enabled"]


async def write(product: Product) -> str:
    """Write as the customer, and answer as an admin; return the conversation."""
    record, customer, admin = product.record, product.customer, product.admin
    file = await record.json(
        "upload_attachment",
        customer,
        content=picture("JPEG", (1000, 700)),
        headers={"Content-Type": "image/jpeg", "Content-Disposition": 'attachment; filename="lid.jpg"'},
    )
    await make_thumbnail(product)
    new = {"subject": "Where is my parcel?", "order_id": "A-1007", "body": "It should have been here on Monday."}
    created = await record.json("create_conversation", customer, new, headers={"Idempotency-Key": "parcel-1"})
    conversation: str = created["id"]
    await record.json("list_orders", customer)
    message = {"body": "And the last one came with a broken lid.", "attachments": [file["id"]]}
    await record.json("post_message", customer, message, conversation_id=conversation)
    await product.catch_up()
    await record.json("admin_list_conversations", admin, query={"status": "AWAITING_ADMIN", "sort": "waiting"})
    found = {"q": "broken lid", "limit": 1}
    await record.json("admin_list_conversations", admin, title="Search", query=found)
    await record.json("count_conversations", admin)
    await record.json("admin_get_conversation", admin, conversation_id=conversation)
    reply = {"body": "It arrives tomorrow. Sorry!", "seen_number": 2}
    await record.json("admin_post_message", admin, reply, conversation_id=conversation)
    await record.json("admin_list_messages", admin, conversation_id=conversation, query={"order": "desc", "limit": 1})
    await record.json("count_unread", customer)
    await record.json("list_conversations", customer, query={"unread": "true"})
    await record.json("list_messages", customer, query={"after": 2}, conversation_id=conversation)
    await record.json("get_conversation", customer, conversation_id=conversation)
    await record.json("mark_read", customer, {"up_to": 3}, conversation_id=conversation)
    await record.call("download_attachment", customer, attachment_id=file["id"])
    await record.call("get_thumbnail", customer, attachment_id=file["id"])
    await record.call("get_picture", customer, attachment_id=file["id"])
    edit = {"reply_body": "A new lid is on its way, too.", "status": "RESOLVED", "seen_number": 3}
    await record.json("edit_conversation", admin, edit, conversation_id=conversation)
    await record.json(
        "edit_conversation",
        admin,
        {"status": "AWAITING_USER", "expected_status": "RESOLVED"},
        title="Undo a status",
        conversation_id=conversation,
    )
    return conversation


async def make_thumbnail(product: Product) -> None:
    worker = PictureProcess()
    try:
        assert await make_next_thumbnail(product.conversations, product.app.state.files, worker) == "made"
    finally:
        await worker.close()


async def work_at_the_desk(product: Product, conversation: str) -> None:
    record, admin, colleague = product.record, product.admin, product.colleague
    about = {"conversation_id": conversation}
    await record.json("list_customers", admin, query={"q": "cleo"})
    await record.json("list_assignable_admins", admin)
    await record.json("assign_conversation", admin, {"admin_id": "ben", "expected": "ada"}, **about)
    labels = {"add": ["damaged", "late"]}
    await record.json("change_conversation_labels", admin, labels, **about)
    await record.json("list_labels", admin)
    await record.json("rename_label", admin, {"name": "damaged in transit"}, label="damaged")
    note = {"body": "The courier has lost two this week.", "mentions": ["ben"]}
    written = await record.json("add_note", admin, note, **about)
    await record.json("note_viewing", colleague, {"writing": True}, **about)
    await record.json("note_viewing", admin, title="While a colleague views it, too", **about)
    canned = {
        "shortcut": "late",
        "title": "Parcel is late",
        "body": "Hello {{customer.first_name}}, order {{order.number}} is late.",
    }
    reply = await record.json("create_canned_reply", admin, canned)
    await record.json("list_canned_replies", admin)
    await record.json("fill_canned_reply", admin, canned_reply_id=reply["id"], **about)
    await record.json("replace_canned_reply", admin, canned | {"title": "Late parcel"}, canned_reply_id=reply["id"])
    new = {"user_id": "C-42", "subject": "Your order 1007", "body": "Is the new lid the right one?"}
    other = await record.json("admin_create_conversation", admin, new, headers={"Idempotency-Key": "lid-1"})
    many = {"items": [{"id": other["id"], "seen_number": 1}], "status": "CLOSED", "add_labels": ["late"]}
    await record.json("change_many", admin, many)
    await record.json("admin_mark_read", admin, {"up_to": 2}, **about)
    await record.json("mark_unread", admin, **about)
    await product.catch_up()
    await record.json("get_timeline", admin, query={"order": "desc", "limit": 5}, **about)
    today = datetime.now(UTC).date().isoformat()
    days = {"from": today, "to": today}
    await record.json("get_report", admin, query={"by": "admin"} | days)
    csv = {"Accept": "text/csv"}
    await record.call("get_report", admin, title="As CSV", query={"by": "label"} | days, headers=csv)
    await record.json("list_audit", admin, query={"action": "conversation.assignment"})
    await record.json("delete_note", admin, note_id=written["id"], **about)
    mistake = await record.json("admin_post_message", admin, {"body": "Ich melde mich."}, **about)
    await record.json("delete_message", admin, message_id=mistake["id"], **about)
    await record.json("delete_label", admin, label="late")
    await record.json("delete_canned_reply", admin, canned_reply_id=reply["id"])


async def notify(product: Product, conversation: str) -> None:
    record, customer, admin = product.record, product.customer, product.admin
    await product.catch_up()
    found = await record.json("list_notifications", customer)
    await record.json("list_notifications", product.colleague, title="For an admin")
    await record.json("count_unread_notifications", customer)
    await record.json("mark_notification_read", customer, notification_id=found["items"][0]["id"])
    await record.json("mark_all_notifications_read", customer)
    await record.json("get_notification_preferences", admin)
    wishes = {"CUSTOMER_REPLIED": {"bell": True, "email": True}, "quiet_hours": {"start": "18:00", "end": "07:30"}}
    await record.json("change_notification_preferences", admin, wishes)
    emails = await record.json("list_emails", admin, query={"conversation_id": conversation, "limit": 1})
    await record.refused("email-not-failed", "retry_email", admin, email_id=emails["items"][0]["id"])


async def take_emails_in(product: Product, conversation: str) -> None:
    record, admin, provider = product.record, product.admin, product.provider
    await record.json("admin_post_message", admin, {"body": "Which colour was it?"}, conversation_id=conversation)
    await product.catch_up()
    sent = message_from_bytes(product.smtp.emails[-1].content, policy=policy.default)
    address = str(sent["Reply-To"]).rpartition("<")[2].rstrip(">")
    record.replaced[address.partition("@")[0].removeprefix("reply+")] = "k5xq7dm2wz"
    for number in (1, 2):
        reply = EmailMessage(policy=policy.SMTP)
        reply["From"], reply["To"] = "Cleo <cleo@work.example>", address
        reply["Subject"], reply["Message-ID"] = "Re: Where is my parcel?", f"<{number}@work.example>"
        reply.set_content("It was the blue one.")
        await record.json(
            "receive_inbound_mime",
            provider,
            content=reply.as_bytes(),
            query={"to": address},
            headers={"Content-Type": "message/rfc822"},
        )
    held = await record.json("list_inbound_emails", admin, query={"state": "held"})
    first, second = (item["id"] for item in held["items"])
    await record.json("get_inbound_email", admin, inbound_id=first)
    await record.call("download_inbound_original", admin, inbound_id=first)
    await record.json("post_inbound_email", admin, inbound_id=first)
    await record.json("discard_inbound_email", admin, inbound_id=second)
    await record.refused("inbound-not-waiting", "post_inbound_email", admin, inbound_id=first)
    stranger = {"to": f"reply+nobody@{DOMAIN}"}
    raw = {"Content-Type": "message/rfc822"}
    await record.refused(
        "inbound-refused", "receive_inbound_mime", provider, content=reply.as_bytes(), query=stranger, headers=raw
    )
    bounced = product.smtp.emails[-1]
    report = REPORT.format(
        recipient=bounced.recipients[0], action="failed", status="5.1.1", said="No such mailbox"
    ).replace("\n", "\r\n")
    to = {"to": bounced.sender, "from": ""}
    await record.json("receive_inbound_mime", provider, content=report.encode(), query=to, headers=raw)
    suppressed = await record.json("list_suppressed_addresses", admin)
    await record.json("remove_suppressed_address", admin, suppression_id=suppressed["items"][0]["id"])
    product.smtp.script["rcpt"] = "550 5.1.1 nobody here"
    await record.json("admin_post_message", admin, {"body": "Did it arrive?"}, conversation_id=conversation)
    await product.catch_up()
    del product.smtp.script["rcpt"]
    failed = await record.json("list_emails", admin, title="Failed ones", query={"state": "failed"})
    await record.json("retry_email", admin, email_id=failed["items"][0]["id"])


async def refuse(product: Product, conversation: str) -> None:
    """Call in each way that is refused with an error of its own."""
    record, customer, admin, store = product.record, product.customer, product.admin, product.store
    about = {"conversation_id": conversation}
    await record.refused("unauthenticated", "list_conversations", product.nobody)
    await record.refused("forbidden", "admin_list_conversations", customer)
    await record.refused("not-found", "get_conversation", product.other, **about)
    await record.refused("validation-failed", "create_conversation", customer, {"subject": "", "priority": 1})
    await record.refused("unknown-parameter", "list_conversations", customer, query={"state": "OPEN"})
    key = {"Idempotency-Key": "parcel-1"}
    await record.refused("idempotency-key-reused", "create_conversation", customer, {"subject": "Else"}, headers=key)
    await record.refused("newer-messages", "post_message", customer, {"body": "Hello?", "seen_number": 1}, **about)
    closing = {"status": "CLOSED", "expected_status": "OPEN"}
    await record.refused("status-changed", "edit_conversation", admin, closing, **about)
    await record.refused("conversation-not-closed", "delete_conversation", admin, **about)
    claim = {"admin_id": "ada", "expected": None}
    await record.refused("assignee-changed", "assign_conversation", admin, claim, **about)
    await record.json("change_conversation_labels", admin, {"add": ["late"]}, **about)
    await record.refused("label-taken", "rename_label", admin, {"name": "Late"}, label="damaged in transit")
    canned = {"shortcut": "hi", "title": "Hello", "body": "Hello!"}
    await record.json("create_canned_reply", admin, canned)
    await record.refused("shortcut-taken", "create_canned_reply", admin, canned)
    order = {"number": "1007", "status": "new", "total": 1, "currency": "EUR", "placed_at": "2026-01-02T03:04:05Z"}
    await record.refused("order-of-another-user", "put_order", store, order | {"user_id": "C-44"}, order_id="A-1007")
    await record.refused("payload-too-large", "post_message", customer, {"body": "x" * 70_000}, **about)
    await record.refused("url-too-long", "list_conversations", customer, query={"q": "x" * 9_000})
    await record.refused("headers-too-large", "count_unread", Person("CUSTOMER_TOKEN", {"X-Long": "x" * 33_000}))
    for large in ("payload-too-large", "url-too-long", "headers-too-large"):
        record.errors[large] = {"response": record.errors[large]["response"]}


async def refuse_when_busy(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call when something is full, busy or stopping. Nothing works afterwards."""
    record, other, sessions, settings = product.record, product.other, product.conversations, product.live.settings
    async with transaction(sessions) as session:
        known = await begin_session(session, "C-43", Side.CUSTOMER)
    cookie = f"{cookie_name(settings)}={issue_session_token(settings, 'C-43', Role.CUSTOMER, known.id, known.csrf)}"
    question = {"subject": "A question", "body": "Is it blue?"}
    await record.refused("csrf-failed", "create_conversation", Person("", {"Cookie": cookie}), question)

    file = await record.json("upload_attachment", other, content=picture("PNG"))
    async with transaction(sessions) as session:
        await session.execute(text("update attachments set state = 'scanning' where id = :id"), {"id": file["id"]})
    await record.refused("file-not-ready", "download_attachment", other, attachment_id=file["id"])
    async with transaction(sessions) as session:
        for _ in range(MAX_OPEN):
            await begin_upload(session, Upload("C-43", Side.CUSTOMER, "photo.png", 1), 0)
    await record.refused("too-many-uploads", "upload_attachment", other, content=b"One more")

    shop = Principal("shop", Role.STORE)
    hook: dict[str, Any] = {"url": "https://store.example/hooks", "types": ["message.posted"]}
    async with transaction(sessions) as session:
        for _ in range(MAX_WEBHOOKS - len(await list_webhooks(session))):
            await create_webhook(session, shop, **hook, description=None)
    await record.refused("too-many-webhooks", "create_webhook", product.store, hook)

    redis = FailopenRedis(product.valkey.url, 5.0)
    product.app.state.limits = limits = Limits(settings, redis)
    writer = Principal("C-43", Role.CUSTOMER)
    posts = [limits.allow(writer, [LimitedAction.MESSAGE]) for _ in range(settings.limit_messages_per_minute)]
    await asyncio.gather(*posts)
    await record.refused("rate-limited", "create_conversation", other, question)
    await redis.client.aclose()

    with monkeypatch.context() as patched:
        patched.setattr(finding, "DEADLINE", 0)
        await record.refused("search-too-slow", "list_conversations", other, query={"q": "blue"})
    async with AsyncExitStack() as stack:
        for _ in range(STREAMS_PER_PERSON):
            reading = product.live.reading(Caller(product.hooks.shop.api, "", other.headers))
            await stack.enter_async_context(reading)
        await record.refused("too-many-streams", "stream_events", other)
    product.live.hub.close()
    await record.refused("unavailable", "stream_events", other)


async def operate(product: Product) -> None:
    record, operator = product.record, product.operator
    parked = sorted([uuid4(), uuid4()], reverse=True)
    async with transaction(product.notifications) as session:
        for event_id in parked:  # as if this version did not know the type
            await session.execute(
                text("insert into inbox (event_id, type, parked_at, reason) values (:id, 'x', now(), 'unknown type')"),
                {"id": event_id},
            )
    await record.json("get_operations", operator)
    await record.json("list_parked_events", operator)
    await record.json("retry_parked_event", operator, event_id=parked[0])
    await record.json("discard_parked_event", operator, event_id=parked[1])
    async with transaction(product.notifications) as session:
        await session.execute(text("delete from inbox where type = 'x'"))
    await record.json("retry_failed_emails", operator, {"since_seconds": 7200})


async def webhook(product: Product) -> None:
    record, store = product.record, product.store
    await product.catch_up()
    [hook] = (await record.json("list_webhooks", store))["items"]
    at = {"webhook_id": hook["id"]}
    await record.json("get_webhook", store, **at)
    tested = await record.json("test_webhook", store, **at)
    await product.hooks.settle()
    await record.json("get_delivery", store, delivery_id=tested["id"], **at)
    await record.json("list_deliveries", store, query={"state": "delivered", "limit": 1}, **at)
    await record.json("replay_delivery", store, delivery_id=tested["id"], **at)
    await record.json("replay_deliveries", store, {"from": "2026-01-04T00:00:00Z", "failed_only": True}, **at)
    await record.json("replace_webhook_secret", store, {"keep_previous_hours": 24}, **at)
    await record.json("change_webhook", store, {"description": "The shop"}, **at)
    second = await record.json("create_webhook", store, {"url": product.hooks.receiver.url, "types": ALL_TYPES})
    await record.json("delete_webhook", store, webhook_id=second["id"])


async def delete(product: Product, conversation: str) -> None:
    record, admin, store = product.record, product.admin, product.store
    closed = (await record.json("admin_list_conversations", admin, query={"status": "CLOSED"}))["items"]
    await record.json("bulk_delete", admin, {"ids": [closed[0]["id"]]})
    await record.json("edit_conversation", admin, {"status": "CLOSED"}, conversation_id=conversation)
    await record.json("delete_conversation", admin, conversation_id=conversation)
    await record.json("delete_order", store, order_id="A-1007")
    await record.json("create_conversation", product.customer, {"subject": "Thank you"})
    await record.refused("notifications-unavailable", "export_user", store, user_id="C-43")
    product.app.state.notifications = product.following.feed
    await record.call("export_user", store, query={"internal": "true"}, user_id="C-42")
    await record.json("merge_user", store, {"into": "C-44"}, user_id="guest-7")
    await record.refused("cannot-merge", "merge_user", store, {"into": "guest-7"}, user_id="C-44")
    await record.json("preview_user_erasure", store, query={"content": "true"}, user_id="C-44")
    deleted = await record.call("delete_user", store, user_id="C-44")
    await record.json("get_erasure", store, erasure_id=deleted.headers["location"].rpartition("/")[2])
    await record.refused("not-found", "get_erasure", store, erasure_id=UNKNOWN_ID)


async def collect_events(product: Product, streams: dict[str, Reader]) -> None:
    """Record the first event of each name, for each side, and the first webhook of each type."""
    await eventually(lambda: all("conversation.deleted" in streams[role].names for role in ("customer", "admin")))
    await asyncio.sleep(0)
    for role, stream in streams.items():
        for event in stream.events:
            if event.event == "reset" or role != "lost":
                side = "customer" if role == "lost" else role
                shown = {"data": event.data} | ({"x-position": event.id} if event.id else {})
                product.record.stream.setdefault(event.event, {}).setdefault(side, shown)
    for request in product.hooks.receiver.received:
        headers = {name: value for name, value in request.headers.items() if name.startswith(("webhook-", "content-t"))}
        product.record.webhooks.setdefault(request.type, {"headers": headers, "json": request.json})
