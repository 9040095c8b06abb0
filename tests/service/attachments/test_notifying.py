"""Notifications and emails name a message's files, with links."""

from email import message_from_bytes, policy

import httpx2
from sqlalchemy import text

from services.notifications.delivery.claiming import claim_emails
from shared.database.transactions import transaction
from tests.service.helpers.callers import Caller
from tests.service.helpers.event_factory import email_settings
from tests.service.helpers.sweeping import Sweeper


async def test_a_reply_of_files_alone_is_named_by_its_first(
    sweeping: Sweeper, anna: Caller, sam: Caller, shop: Caller, notifications_api: httpx2.AsyncClient
) -> None:
    sweeping.settings = email_settings("postgresql://unused")
    await shop.call("PUT", "/users/anna", {"email": "anna@customer.test", "role": "customer"})
    conversation = (await anna.open(body="Hello"))["id"]
    files = [await sam.upload(b"A label", "label.pdf"), await sam.upload(b"A text", "how to.txt")]
    await sam.post(conversation, "", attachments=[file["id"] for file in files])
    await sweeping.number()
    await sweeping.catch_up_fully()
    own = await notifications_api.get("/api/v1/notifications", headers=anna.headers)
    assert [item["preview"] for item in own.json()["items"]] == ["label.pdf"]
    async with transaction(sweeping.notifications) as session:
        await session.execute(text("update emails set next_attempt_at = clock_timestamp()"))
    async with transaction(sweeping.notifications) as session:
        [claimed] = await claim_emails(session, sweeping.settings) or []
    message = message_from_bytes(claimed.content, policy=policy.default)
    plain = message.get_body(("plain",))
    assert plain is not None
    for file in files:
        assert file["name"] in plain.get_content()
        assert f"/attachments/{file['id']}" in plain.get_content()


async def test_a_rebuilt_service_knows_the_files(sweeping: Sweeper, anna: Caller, sam: Caller) -> None:
    conversation = (await anna.open(body="Hello"))["id"]
    await sam.post(conversation, "", attachments=[(await sam.upload(b"A label", "label.pdf"))["id"]])
    await sweeping.number()
    snapshot = (await sweeping.feed.get("/internal/snapshot/messages")).json()["items"]
    assert [[file["name"] for file in item["message"]["attachments"]] for item in snapshot] == [[], ["label.pdf"]]
