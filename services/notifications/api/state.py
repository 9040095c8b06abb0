"""The types of what the application of this service keeps in `app.state`."""

from typing import cast

from starlette.requests import HTTPConnection

from services.notifications.api.request_memory import RequestMemory
from services.notifications.inbound.reception import Reception
from services.notifications.settings import ApiSettings
from shared.api.app_state import AppState


class ApiState(AppState):
    """The state of the notifications service, which `create_app` sets."""

    settings: ApiSettings
    reception: Reception
    request_memory: RequestMemory
    """Memory for emails in transfer."""


def api_state(request: HTTPConnection) -> ApiState:
    """Return the state of the application that handles a request."""
    return cast("ApiState", request.app.state)
