"""The store's endpoint for webhooks, which fails a third of its requests, and what it has to have been told."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import asyncpg
from standardwebhooks import Webhook, WebhookVerificationError

from bench.chaos.verdict import Verdict
from services.conversations.rules import WebhookType
from services.conversations.webhooks.sending import TIMEOUT
from shared.events import EventType
from tests.helpers.webhook_receiver import Answer, Received, Receiver, webhook_receiver
from tests.system.helpers.product import Product

RETRY_SECONDS = (0, 0.2, 0.5, 1, 2, 3, *[5] * 20)
"""`CHATS_WEBHOOK_RETRY_SECONDS`: longer than any fault, so that no delivery may fail for good."""

_ANSWERS = (
    *[Answer()] * 650,
    *[Answer(delay=1.0)] * 17,
    *[Answer(500, b"out of order")] * 130,
    *[Answer(503, headers={"Retry-After": "1"})] * 60,
    *[Answer(302, headers={"Location": "/elsewhere"})] * 40,
    *[Answer(hang_up=True)] * 100,
    *[Answer(delay=TIMEOUT + 1, hang_up=True)] * 3,
)
"""A third fails, and some are only slow."""


class Endpoint:
    """The endpoint. It refuses what is not signed with its secret."""

    def __init__(self, receiver: Receiver, seed: int) -> None:
        self.port = receiver.port
        self.unsigned = 0
        self._receiver = receiver
        self._rng = random.Random(f"{seed} endpoint")
        self._secret = ""
        receiver.answer = self._answer

    async def subscribe(self, product: Product, port: int) -> None:
        """Create a webhook for all types of events, which is sent to a port that leads here."""
        url = urlsplit(self._receiver.url)._replace(netloc=f"127.0.0.1:{port}").geturl()
        body = {"url": url, "types": list(WebhookType)}
        created = await product.call("POST", "/api/v1/store/webhooks", "shop", "store", json=body)
        assert created.status_code == 201, created.text
        self._secret = created.json()["secret"]

    def _answer(self, request: Received) -> Answer:
        try:
            Webhook(self._secret).verify(request.body, request.headers)
        except WebhookVerificationError:
            self.unsigned += 1
            return Answer(400)
        return self._rng.choice(_ANSWERS)

    async def compare(self, conversations: str, notifications: str, verdict: Verdict) -> None:
        """Compare what was accepted with the log, messages, notifications and the emails that failed, by SQL."""
        store, notifier = await asyncpg.connect(conversations), await asyncpg.connect(notifications)
        events = await store.fetch(_EVENTS)
        alive = {row["id"] for row in await store.fetch("select id from conversations")}
        messages = {str(row["id"]) for row in await store.fetch("select id from messages")}
        states = await store.fetch("select state, count(*) from webhook_deliveries group by state")
        failed = await notifier.fetch("select id, conversation_id from emails where state = 'failed'")
        records = await notifier.fetch("select id, conversation_id from notifications")
        await store.close()
        await notifier.close()

        accepted = self._receiver.accepted
        first = {request.id: request for request in reversed(accepted)}
        told = [request.data for request in first.values()]
        emails = {data["email_id"] for data in told if "email_id" in data}
        notified = {data["notification_id"] for data in told if "notification_id" in data}
        places = {webhook_id: place for event in events for webhook_id, place in _places(event)}
        verdict.faults |= {
            "events in no webhook": sum(
                webhook_id not in first for event in events for webhook_id in _expected(event, alive)
            ),
            "messages in no webhook": len(messages - {data["message"]["id"] for data in told if "message" in data}),
            "failed emails in no webhook": sum(
                row["conversation_id"] in alive and str(row["id"]) not in emails for row in failed
            ),
            "notifications in no webhook": sum(
                row["conversation_id"] in alive and str(row["id"]) not in notified for row in records
            ),
            "webhooks out of order": _out_of_order(dict.fromkeys(request.id for request in accepted), places),
            "webhooks of no event": len(first.keys() - places.keys()) - len(emails) - len(notified),
            "webhooks that failed for good": sum(row["count"] for row in states if row["state"] == "failed"),
            "webhooks without a valid signature": self.unsigned,
        }
        verdict.facts |= {
            "webhooks accepted": len(first),
            "webhooks accepted again": len(accepted) - len(first),
            "requests of webhooks": len(self._receiver.received),
            "webhooks ended as": Counter({row["state"]: row["count"] for row in states}),
        }


@asynccontextmanager
async def running_endpoint(seed: int) -> AsyncIterator[Endpoint]:
    """Run an endpoint while the context is open."""
    async with webhook_receiver() as receiver:
        yield Endpoint(receiver, seed)


Place = tuple[UUID, int, int]
"""A webhook's conversation, the position of its event, and its place among those of the same event."""

_EVENTS = """
    select id, type, position, conversation_id, payload ? 'status' as has_status from events where position is not null
"""


def _places(event: Any) -> list[tuple[str, Place]]:
    """Return the ids of the webhooks that an event may have led to, with their places.

    That a message also changed the status is no longer known once its conversation is deleted.
    """
    place = event["conversation_id"], event["position"]
    return [(str(event["id"]), (*place, 0)), (str(uuid5(event["id"], "status")), (*place, 1))]


def _expected(event: Any, alive: set[UUID]) -> list[str]:
    """Return the ids of the webhooks that an event must have led to. Of a deleted conversation only that is told."""
    (own, _), (status, _) = _places(event)
    if event["type"] == EventType.CONVERSATION_DELETED:
        return [own]
    if event["conversation_id"] not in alive:
        return []
    if event["type"] == EventType.MESSAGE_POSTED:
        return [own, status] if event["has_status"] else [own]
    return [own] if event["has_status"] or event["type"] == EventType.CONVERSATION_CREATED else []


def _out_of_order(accepted: Iterable[str], places: dict[str, Place]) -> int:
    """Return how many webhooks were first accepted after a later one of their conversation."""
    newest: dict[UUID, Place] = {}
    wrong = 0
    for webhook_id in accepted:
        if place := places.get(webhook_id):
            wrong += place < newest.setdefault(place[0], place)
            newest[place[0]] = max(place, newest[place[0]])
    return wrong
