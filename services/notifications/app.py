"""The HTTP application of the notifications service."""

from functools import partial
from pathlib import Path
from typing import cast

from fastapi import FastAPI

from services.notifications.api.docs.fields import FIELDS
from services.notifications.api.docs.tags import TAGS
from services.notifications.api.request_memory import RequestMemory
from services.notifications.api.routes import inbound, inbound_mime, internal, notifications, operations, suppressed
from services.notifications.api.state import ApiState
from services.notifications.inbound.reception import InboundAddresses, Reception
from services.notifications.settings import ApiSettings
from services.notifications.web import emails, errors, preferences, unsubscribing
from shared.api.app import create_api
from shared.api.docs import describe_fields
from shared.api.routing import add_head_routes, add_routes
from shared.database.engine import REQUEST_BOUNDS, create_engine
from shared.database.transactions import request_connection, request_transaction

_DESCRIPTION = """
Customers' `NEW_MESSAGE` notifications, and the delivery status of each email. Every request needs a bearer token.
"""


def create_app(settings: ApiSettings) -> FastAPI:
    """Create the application."""
    engine = create_engine(
        settings.notifications_database_url, application="chats-notifications-api", bounds=REQUEST_BOUNDS
    )
    app = create_api(
        settings,
        engine,
        Path(__file__).parent,
        title="Customer Chats: notifications",
        description=_DESCRIPTION,
        openapi_tags=TAGS,
        docs_url="/api/v1/notifications/docs",
        openapi_url="/api/v1/notifications/openapi.json",
        streamed=[inbound_mime.MIME],
        render_error=errors.render_html_error,
    )
    state = cast("ApiState", app.state)
    acquire, transact = partial(request_connection, state.acquire), partial(request_transaction, state.sessions)
    state.reception = Reception(acquire, transact, InboundAddresses.of(settings, settings.public_url))
    state.request_memory = RequestMemory(inbound_mime.MAX_REQUEST_MEMORY)
    add_routes(
        app,
        preferences.router,
        emails.router,
        notifications.router,
        notifications.emails,
        inbound_mime.router,
        inbound.router,
        suppressed.router,
        operations.router,
        unsubscribing.router,
        internal.router,
    )
    describe_fields(app, FIELDS)
    add_head_routes(app)
    return app
