"""The section `webhooks` of the OpenAPI document: the requests that we make."""

from typing import Any, Final

from fastapi import FastAPI

from services.conversations.rules import WEBHOOK_TEST, WebhookType
from services.conversations.webhooks.bodies import DATA
from shared.api.json_schema import add_schemas

_SUMMARIES: Final[dict[str, str]] = {
    WebhookType.CONVERSATION_CREATED: "A customer or an admin opened a conversation.",
    WebhookType.MESSAGE_POSTED: "Somebody wrote a message.",
    WebhookType.CONVERSATION_STATUS_CHANGED: "The status changed, by hand or because of a message.",
    WebhookType.CONVERSATION_DELETED: "A conversation was deleted. Nothing else is told of it any more.",
    WebhookType.NOTIFICATION_CREATED: "There is a new notification for somebody.",
    WebhookType.EMAIL_FAILED: "An email was not delivered, and is not tried again.",
    WebhookType.EMAIL_BOUNCED: "An email was accepted by its server, and came back.",
    WEBHOOK_TEST: "A test, sent on request.",
}
_HEADERS: Final = {
    "webhook-id": "The event's id, the same at each attempt and in a replay.",
    "webhook-timestamp": "When the request was made, in seconds since 1970.",
    "webhook-signature": "A signature `v1,…` for each valid secret, separated by spaces.",
}


def describe_webhooks(app: FastAPI) -> None:
    """Add the requests that we make to the OpenAPI document."""
    build = app.openapi

    def document() -> dict[str, Any]:
        built = build()
        schemas = add_schemas(built, DATA)
        return built | {"webhooks": {name: {"post": _operation(name, schemas[name])} for name in DATA}}

    app.openapi = document  # type: ignore[method-assign] # as in FastAPI's documentation


def _operation(name: str, data: dict[str, Any]) -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": name},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "data": data,
        },
    }
    return {
        "operationId": f"webhook_{name.replace('.', '_')}",
        "summary": name,
        "description": f"{_SUMMARIES[name]} Signed by the Standard Webhooks specification.",
        "tags": ["Webhooks"],
        "parameters": [
            {"name": header, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for header, text in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "2XX": {"description": "Accepted. Answer within 10 seconds."},
            "410": {"description": "Gone: the webhook is disabled."},
            "default": {"description": "Sent again later, after a `Retry-After` of up to an hour."},
        },
    }
