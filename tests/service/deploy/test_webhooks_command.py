"""`chats webhooks`, and what `chats status` says of webhooks."""

from sqlalchemy import text

from shared.database.transactions import SessionFactory, transaction
from tests.service.deploy.conftest import Chats
from tests.service.helpers.callers import Caller


async def test_webhooks_and_deliveries_are_listed_and_sent_again_without_what_was_answered(
    shop: Caller, chats: Chats, conversations: SessionFactory, notifications: SessionFactory
) -> None:
    assert notifications
    body = {"url": "https://store.example/hooks", "types": ["message.posted"]}
    created = (await shop.call("POST", "/webhooks", body)).json()
    delivery = (await shop.call("POST", f"/webhooks/{created['id']}/test")).json()
    listed = await chats("webhooks", "list")
    assert listed.stdout.split() == [created["id"], body["url"], "message.posted", "enabled"]
    assert created["secret"] not in listed.stdout
    async with transaction(conversations) as session:
        await session.execute(
            text(
                "update webhook_deliveries set state = 'failed', due_at = null, attempts = 8, status = 500,"
                " error = 'status', response = 'the answer'"
            )
        )
        await session.execute(
            text("update webhooks set disabled_at = now(), disabled_reason = 'failing', failures = 12")
        )
    assert "(failing)" in (await chats("webhooks", "list")).stdout
    shown = (await chats("webhooks", "deliveries", created["id"], "--state", "failed")).stdout
    assert "8 attempts  500 status" in shown
    assert "the answer" not in shown
    status = await chats("status")
    [line] = [line for line in status.stdout.splitlines() if line.startswith("webhooks")]
    assert "1 disabled because the endpoint fails or is gone" in line
    again = await chats("webhooks", "replay", created["id"], str(delivery["id"]))
    assert "It will be sent as delivery" in again.stdout
    pending = (await shop.get(f"/webhooks/{created['id']}/deliveries", state="pending"))["items"]
    assert [each["replay_of"] for each in pending] == [delivery["id"]]
    wrong = await chats("webhooks", "deliveries", created["id"], "--state", "lost")
    assert wrong.exit_code != 0
