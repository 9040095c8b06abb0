"""What the OpenAPI document has beside what FastAPI knows."""

from fastapi import FastAPI

from services.conversations.api.docs.fields import FIELDS
from services.conversations.api.docs.stream import describe_stream
from services.conversations.api.docs.webhooks import describe_webhooks
from services.conversations.api.store_bodies import describe_bodies
from shared.api.docs import describe_fields


def complete_document(app: FastAPI) -> None:
    """Add the store's bodies, webhooks, the stream's events, and the meaning of all fields."""
    describe_bodies(app)
    describe_webhooks(app)
    describe_stream(app)
    describe_fields(app, FIELDS)
