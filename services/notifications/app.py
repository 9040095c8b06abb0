"""The HTTP application of the notifications service."""

from pathlib import Path

from fastapi import FastAPI

from services.notifications.api import inbound, internal, leaving, operations, routes
from services.notifications.settings import ApiSettings
from services.notifications.web import preferences
from shared.database import REQUEST_BOUNDS, create_engine
from shared.http import add_head_routes, add_routes, create_api

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
        docs_url="/api/v1/notifications/docs",
        openapi_url="/api/v1/notifications/openapi.json",
    )
    add_routes(
        app,
        preferences.router,
        routes.router,
        inbound.router,
        operations.router,
        leaving.router,
        internal.router,
    )
    add_head_routes(app)
    return app
