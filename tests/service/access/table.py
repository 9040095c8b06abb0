"""What each caller gets from each route of both applications.

A row is a route, the status for each kind of caller, and what is sent. The placeholders in a row are the owner's:
`{conversation_id}` is the owner's conversation for every caller. Pages are called with the browser's cookie; everything
else with a bearer token, and by customers and admins also with the cookie. Placeholders are in the path or in the body;
a row without placeholders is about the caller's own data.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

CALLERS = ("nobody", "owner", "other", "admin", "store", "feed")

CONVERSATIONS = """
                                                             nobody owner other admin store feed
GET    /api/v1/conversations                                    401   200   200   403   403  401
GET    /api/v1/conversations?unread=true                        401   200   200   403   403  401
GET    /api/v1/conversations?order_id={order_id}&limit=1        401   200   200   403   403  401
POST   /api/v1/conversations                                    401   201   201   403   403  401 #conversation
POST   /api/v1/conversations                                    401   201   422   403   403  401 #about_order
POST   /api/v1/conversations                                    401   422   422   403   403  401 #for_user
GET    /api/v1/conversations/{conversation_id}                  401   200   404   403   403  401
GET    /api/v1/conversations/{conversation_id}?peek=true        401   200   404   403   403  401
GET    /api/v1/conversations/{conversation_id}/messages         401   200   404   403   403  401
GET    /api/v1/conversations/{conversation_id}/messages?after=1 401   200   404   403   403  401
POST   /api/v1/conversations/{conversation_id}/messages         401   201   404   403   403  401 #message
POST   /api/v1/conversations/{conversation_id}/messages         401   409   404   403   403  401 #unseen
POST   /api/v1/conversations/{conversation_id}/messages         401   201   404   403   403  401 #file
POST   /api/v1/conversations                                    401   201   422   403   403  401 #new_with_file
POST   /api/v1/admin/conversations/{conversation_id}/messages   401   403   403   422   403  401 #file
POST   /api/v1/conversations/{conversation_id}/read             401   204   404   403   403  401 #read
GET    /api/v1/orders                                           401   200   200   403   403  401
GET    /api/v1/orders?limit=9                                   401   200   200   403   403  401
GET    /api/v1/unread                                           401   200   200   200   403  401
POST   /api/v1/attachments                                      401   201   201   201   403  401 #message
GET    /api/v1/attachments/{attachment_id}                      401   200   404   200   403  401
GET    /api/v1/attachments/{attachment_id}/thumbnail            401   200   404   200   403  401
GET    /api/v1/attachments/{attachment_id}/picture              401   200   404   200   403  401
GET    /api/v1/stream                                           401   200   200   200   403  401
GET    /api/v1/stream?after={position}                          401   200   200   200   403  401

GET    /api/v1/admin/conversations                              401   403   403   200   403  401
GET    /api/v1/admin/conversations?user_id={user_id}&limit=1    401   403   403   200   403  401
GET    /api/v1/admin/conversations?held=false                   401   403   403   200   403  401
GET    /api/v1/admin/conversations/counts                       401   403   403   200   403  401
POST   /api/v1/admin/conversations                              401   403   403   201   403  401 #admins_conversation
GET    /api/v1/admin/conversations/{conversation_id}            401   403   403   200   403  401
GET    /api/v1/admin/conversations/{conversation_id}/messages   401   403   403   200   403  401
POST   /api/v1/admin/conversations/{conversation_id}/messages   401   403   403   201   403  401 #message
PATCH  /api/v1/admin/conversations/{conversation_id}            401   403   403   200   403  401 #status
PATCH  /api/v1/admin/conversations/{conversation_id}            401   403   403   200   403  401 #reply
POST   /api/v1/admin/conversations/{conversation_id}/read       401   403   403   204   403  401 #read
POST   /api/v1/admin/conversations/{conversation_id}/unread     401   403   403   204   403  401
POST   /api/v1/admin/conversations/{conversation_id}/viewing    401   403   403   200   403  401 #gone
POST   /api/v1/admin/conversations/{conversation_id}/viewing    401   403   403   200   403  401
DELETE /api/v1/admin/conversations/{conversation_id}            401   403   403   204   403  401
POST   /api/v1/admin/conversations/bulk-delete                  401   403   403   200   403  401 #both
POST   /api/v1/admin/conversations/bulk                         401   403   403   200   403  401 #many
PUT    /api/v1/admin/conversations/{conversation_id}/assignee   401   403   403   200   403  401 #nobody
PATCH  /api/v1/admin/conversations/{conversation_id}/labels     401   403   403   200   403  401 #labels
POST   /api/v1/admin/conversations/{conversation_id}/notes      401   403   403   201   403  401 #message
DELETE /api/v1/admin/conversations/{conversation_id}/notes/{note_id} 401 403 403 204 403 401
DELETE /api/v1/admin/conversations/{conversation_id}/messages/{message_id} 401 403 403 204 403 401
GET    /api/v1/admin/conversations/{conversation_id}/timeline   401   403   403   200   403  401
GET    /api/v1/admin/conversations/{conversation_id}/canned-replies/{canned_reply_id} 401 403 403 200 403 401
GET    /api/v1/admin/conversations?assigned=me&label=x          401   403   403   200   403  401
GET    /api/v1/admin/admins                                     401   403   403   200   403  401
GET    /api/v1/admin/labels                                     401   403   403   200   403  401
PATCH  /api/v1/admin/labels/{label}                             401   403   403   200   403  401 #label
DELETE /api/v1/admin/labels/{label}                             401   403   403   204   403  401
GET    /api/v1/admin/canned-replies                             401   403   403   200   403  401
POST   /api/v1/admin/canned-replies                             401   403   403   201   403  401 #canned_reply
PUT    /api/v1/admin/canned-replies/{canned_reply_id}                  401   403   403   200   403  401 #canned_reply
DELETE /api/v1/admin/canned-replies/{canned_reply_id}                  401   403   403   204   403  401
GET    /api/v1/admin/reports                                    401   403   403   200   403  401
GET    /api/v1/admin/reports?from=2026-01-01&to=2026-12-31&by=label 401 403 403 200 403 401
GET    /api/v1/admin/audit                                      401   403   403   200   403  401
GET    /api/v1/admin/audit?conversation_id={conversation_id}    401   403   403   200   403  401
GET    /api/v1/admin/users                                      401   403   403   200   403  401
GET    /api/v1/admin/users?q={user_id}                          401   403   403   200   403  401

PUT    /api/v1/store/users/{user_id}                            401   403   403   403   200  401 #user
DELETE /api/v1/store/users/{user_id}                            401   403   403   403   204  401
GET    /api/v1/store/users/{user_id}/export                     401   403   403   403   503  401
GET    /api/v1/store/users/{user_id}/export?internal=true       401   403   403   403   503  401
GET    /api/v1/store/users/{user_id}/erasure-preview            401   403   403   403   200  401
GET    /api/v1/store/users/{user_id}/erasure-preview?content=true 401 403   403   403   200  401
GET    /api/v1/store/erasures/{erasure_id}                      401   403   403   403   200  401
DELETE /api/v1/store/users/{user_id}/sessions                   401   403   403   403   204  401
POST   /api/v1/store/users/{user_id}/merge                      401   403   403   403   200  401 #merge
PUT    /api/v1/store/orders/{order_id}                          401   403   403   403   200  401 #order
DELETE /api/v1/store/orders/{order_id}                          401   403   403   403   204  401
GET    /api/v1/store/connection                                 401   403   403   403   200  401
POST   /api/v1/store/import                                     401   403   403   403   200  401 #line
GET    /api/v1/store/webhooks                                   401   403   403   403   200  401
POST   /api/v1/store/webhooks                                   401   403   403   403   201  401 #webhook
GET    /api/v1/store/webhooks/{webhook_id}                      401   403   403   403   200  401
PATCH  /api/v1/store/webhooks/{webhook_id}                      401   403   403   403   200  401 #disabled
DELETE /api/v1/store/webhooks/{webhook_id}                      401   403   403   403   204  401
POST   /api/v1/store/webhooks/{webhook_id}/secret               401   403   403   403   200  401
POST   /api/v1/store/webhooks/{webhook_id}/test                 401   403   403   403   201  401
POST   /api/v1/store/webhooks/{webhook_id}/replay               401   403   403   403   200  401 #range
GET    /api/v1/store/webhooks/{webhook_id}/deliveries           401   403   403   403   200  401
GET    /api/v1/store/webhooks/{webhook_id}/deliveries?state=failed 401 403 403 403 200 401
GET    /api/v1/store/webhooks/{webhook_id}/deliveries/{delivery_id} 401 403 403 403 200 401
POST   /api/v1/store/webhooks/{webhook_id}/deliveries/{delivery_id}/replay 401 403 403 403 201 401

GET    /internal/events                                         401   401   401   401   401  200
GET    /internal/events?reader=x                                401   401   401   401   401  200
GET    /internal/snapshot/{kind}                                401   401   401   401   401  200
POST   /internal/inbound/files                                  401   401   401   401   401  401
POST   /internal/inbound/batch                                  401   401   401   401   401  401
POST   /internal/inbound/{inbound_id}                           401   401   401   401   401  401 #nothing

GET    /dashboard/messages                                      303   303   303   303   303  303
GET    /dashboard/messages/                                     401   200   200   403   401  401
GET    /dashboard/messages/?user_id={user_id}                   401   200   200   403   401  401
GET    /dashboard/messages/new                                  303   303   303   303   303  303
GET    /dashboard/messages/new/                                 401   200   200   403   401  401
GET    /dashboard/messages/new/?order_id={order_id}             401   200   200   403   401  401
POST   /dashboard/messages/new/                                 401   303   303   403   401  401 #conversation
POST   /dashboard/messages/new/                                 401   303   422   403   401  401 #about_order
GET    /dashboard/messages/emails/                              401   303   303   403   401  401
GET    /dashboard/messages/emails/?conversation_id={conversation_id} 401 303 303 403 401 401
GET    /dashboard/messages/{conversation_id}                    303   303   303   303   303  303
GET    /dashboard/messages/{conversation_id}/                   401   200   404   403   401  401
GET    /dashboard/messages/{conversation_id}/?peek=true         401   200   404   403   401  401
POST   /dashboard/messages/{conversation_id}/                   401   303   404   403   401  401 #message
POST   /dashboard/messages/{conversation_id}/                   401   422   404   403   401  401 #blank

GET    /admin/dashboard/conversation                            303   303   303   303   303  303
GET    /admin/dashboard/conversation/                           401   403   403   200   401  401
GET    /admin/dashboard/conversation/?user_id={user_id}         401   403   403   200   401  401
GET    /admin/dashboard/conversation/new                        303   303   303   303   303  303
GET    /admin/dashboard/conversation/new/                       401   403   403   200   401  401
GET    /admin/dashboard/conversation/new/?user_id={user_id}     401   403   403   200   401  401
POST   /admin/dashboard/conversation/new/                       401   403   403   303   401  401 #admins_conversation
GET    /admin/dashboard/conversation/bulk-delete                303   303   303   303   303  303
GET    /admin/dashboard/conversation/bulk-delete/?ids={ids}     401   403   403   200   401  401
POST   /admin/dashboard/conversation/bulk-delete/               401   403   403   303   401  401 #both
GET    /admin/dashboard/conversation/{conversation_id}          303   303   303   303   303  303
GET    /admin/dashboard/conversation/{conversation_id}/         401   403   403   200   401  401
POST   /admin/dashboard/conversation/{conversation_id}/         401   403   403   303   401  401 #reply
POST   /admin/dashboard/conversation/{conversation_id}/         401   403   403   422   401  401 #blank
GET    /admin/dashboard/conversation/{conversation_id}/unread/  303   303   303   303   303  303
POST   /admin/dashboard/conversation/{conversation_id}/unread/  401   403   403   303   401  401
GET    /admin/dashboard/conversation/{conversation_id}/delete   303   303   303   303   303  303
GET    /admin/dashboard/conversation/{conversation_id}/delete/  401   403   403   200   401  401
POST   /admin/dashboard/conversation/{conversation_id}/delete/  401   403   403   303   401  401

GET    /admin/dashboard/conversation/canned-replies/{canned_reply_id}/ 303 303 303 303 303 303
GET    /admin/dashboard/conversation/canned-replies/{canned_reply_id}/delete/ 303 303 303 303 303 303
GET    /admin/dashboard/conversation/bulk/                     303   303   303   303   303  303
GET    /admin/dashboard/conversation/{conversation_id}/assignee/ 303 303 303 303 303 303
GET    /admin/dashboard/conversation/{conversation_id}/labels/ 303 303 303 303 303 303
GET    /admin/dashboard/conversation/{conversation_id}/notes/  303 303 303 303 303 303
GET    /admin/dashboard/conversation/{conversation_id}/notes/{note_id}/delete/ 303 303 303 303 303 303
GET    /admin/dashboard/conversation/{conversation_id}/messages/{message_id}/remove/ 303 303 303 303 303 303
GET    /admin/dashboard/conversation/canned-replies/           401   403   403   200   401  401
POST   /admin/dashboard/conversation/canned-replies/           401   403   403   303   401  401 #canned_reply
POST   /admin/dashboard/conversation/canned-replies/{canned_reply_id}/ 401 403 403 303 401 401 #canned_reply
POST   /admin/dashboard/conversation/canned-replies/{canned_reply_id}/delete/ 401 403 403 303 401 401
GET    /admin/dashboard/conversation/{conversation_id}/?canned={canned_reply_id} 401 403 403 200 401 401
POST   /admin/dashboard/conversation/bulk/                      401   403   403   303   401  401 #selected
POST   /admin/dashboard/conversation/{conversation_id}/assignee/ 401 403 403 303  401  401 #unassigned
POST   /admin/dashboard/conversation/{conversation_id}/labels/ 401   403   403   303   401  401 #new_label
POST   /admin/dashboard/conversation/{conversation_id}/notes/  401   403   403   303   401  401 #message
POST   /admin/dashboard/conversation/{conversation_id}/notes/{note_id}/delete/ 401 403 403 303 401 401
POST   /admin/dashboard/conversation/{conversation_id}/messages/{message_id}/remove/ 401 403 403 303 401 401

GET    /admin/audit                                             303   303   303   303   303  303
GET    /admin/audit/                                            401   403   403   200   401  401
GET    /admin/audit/?actor=sam&conversation_id={conversation_id} 401  403   403   200   401  401
GET    /admin/reports                                           303   303   303   303   303  303
GET    /admin/reports/                                          401   403   403   200   401  401
GET    /admin/reports/?from=2026-01-01&to=2026-12-31&by=admin   401   403   403   200   401  401
GET    /admin/reports/report.csv?by=label                       401   403   403   200   401  401
GET    /admin/dashboard/conversation/notifications/            401   403   403   303   401  401
GET    /admin/webhooks                                          303   303   303   303   303  303
GET    /admin/webhooks/                                         401   403   403   403   401  401
POST   /admin/webhooks/                                         401   403   403   403   401  401 #webhook_form
GET    /admin/webhooks/{webhook_id}/                            401   403   403   403   401  401
GET    /admin/webhooks/{webhook_id}/?state=failed               401   403   403   403   401  401
POST   /admin/webhooks/{webhook_id}/                            401   403   403   403   401  401 #webhook_form
POST   /admin/webhooks/{webhook_id}/enable/                     401   403   403   403   401  401
POST   /admin/webhooks/{webhook_id}/disable/                    401   403   403   403   401  401
POST   /admin/webhooks/{webhook_id}/test/                       401   403   403   403   401  401
POST   /admin/webhooks/{webhook_id}/secret/                     401   403   403   403   401  401
POST   /admin/webhooks/{webhook_id}/replay/                     401   403   403   403   401  401 #delivery
POST   /admin/webhooks/{webhook_id}/delete/                     401   403   403   403   401  401
GET    /admin/webhooks/{webhook_id}/enable/                     303   303   303   303   303  303
GET    /admin/webhooks/{webhook_id}/disable/                    303   303   303   303   303  303
GET    /admin/webhooks/{webhook_id}/test/                       303   303   303   303   303  303
GET    /admin/webhooks/{webhook_id}/secret/                     303   303   303   303   303  303
GET    /admin/webhooks/{webhook_id}/replay/                     303   303   303   303   303  303
GET    /admin/webhooks/{webhook_id}/delete/                     303   303   303   303   303  303
GET    /admin/operations                                        303   303   303   303   303  303
GET    /admin/operations/                                       401   403   403   403   401  401

GET    /attachments/{attachment_id}                             401   200   404   200   401  401
GET    /attachments/{attachment_id}/picture                     401   200   404   200   401  401

GET    /                                                        303   303   303   303   303  303
GET    /session                                                 303   303   303   303   303  303
POST   /session                                                 401   303   303   303   403  401 #hand_over
POST   /session/renew                                           401   204   204   204   401  401
GET    /messenger/start/                                        200   200   200   200   200  200
POST   /messenger/session                                       401   201   201   403   403  401 #hand_over
POST   /session/end                                             200   200   200   200   200  200 #everywhere

GET    /chats-static{file}                                      200   200   200   200   200  200
GET    /docs                                                    200   200   200   200   200  200
GET    /docs/static{docs_file}                                  200   200   200   200   200  200
GET    /openapi.json                                            200   200   200   200   200  200
GET    /healthz                                                 200   200   200   200   200  200
GET    /readyz                                                  200   200   200   200   200  200
GET    /metrics                                                 200   200   200   200   200  200
"""

NOTIFICATIONS = """
                                                             nobody owner other admin store feed
GET    /api/v1/notifications                                    401   200   200   200   403  401
GET    /api/v1/notifications?unread=true                        401   200   200   200   403  401
GET    /api/v1/notifications/unread                             401   200   200   200   403  401
POST   /api/v1/notifications/read-all                           401   204   204   204   403  401
POST   /api/v1/notifications/{notification_id}/read             401   204   404   404   403  401
GET    /api/v1/notifications/preferences                        401   403   403   200   403  401
PUT    /api/v1/notifications/preferences                        401   403   403   200   403  401 #preferences
GET    /api/v1/notifications/emails                             401   403   403   200   403  401
GET    /api/v1/notifications/emails?conversation_id={conversation_id} 401 403 403 200 403 401
GET    /api/v1/notifications/links/{unsubscribe_token}          200   200   200   200   200  200
POST   /api/v1/notifications/links/{unsubscribe_token}          422   422   422   422   422  422
POST   /api/v1/notifications/emails/{email_id}/retry            401   403   403   204   403  401
POST   /api/v1/notifications/emails/retry                       401   403   403   403   403  401 #nothing
GET    /api/v1/notifications/emails/suppressed                  401   403   403   200   403  401
GET    /api/v1/notifications/emails/suppressed?user_id={user_id} 401  403   403   200   403  401
DELETE /api/v1/notifications/emails/suppressed/{suppression_id} 401   403   403   204   403  401
GET    /api/v1/notifications/inbound                            401   403   403   200   403  401
GET    /api/v1/notifications/inbound?conversation_id={conversation_id} 401 403 403 200 403 401
GET    /api/v1/notifications/inbound/{inbound_id}               401   403   403   200   403  401
GET    /api/v1/notifications/inbound/{inbound_id}/original      401   403   403   200   403  401
POST   /api/v1/notifications/inbound/mime                       401   401   401   401   401  401
POST   /api/v1/notifications/inbound/{inbound_id}/post          401   403   403   204   403  401
POST   /api/v1/notifications/inbound/{inbound_id}/discard       401   403   403   204   403  401
GET    /api/v1/notifications/operations                         401   403   403   403   403  401
GET    /api/v1/notifications/parked                             401   403   403   403   403  401
POST   /api/v1/notifications/parked/{event_id}/retry            401   403   403   403   403  401
POST   /api/v1/notifications/parked/{event_id}/discard          401   403   403   403   403  401

GET    /notifications/preferences                               303   403   403   200   303  303
POST   /notifications/preferences                               303   403   403   303   303  303 #chosen

GET    /notifications/emails                                    303   200   200   403   303  303
GET    /notifications/emails?conversation_id={conversation_id}  303   200   404   403   303  303
POST   /notifications/emails                                    303   303   303   403   303  303 #wish
POST   /notifications/emails?conversation_id={conversation_id}  303   303   404   403   303  303 #wish

GET    /internal/events?type=email.updated                      401   401   401   401   401  200
GET    /internal/events?type=email.updated&reader=x             401   401   401   401   401  200
GET    /internal/emails                                         401   401   401   401   401  200
GET    /internal/held                                           401   401   401   401   401  200
GET    /internal/stops                                          401   401   401   401   401  200
GET    /internal/people?user_id={user_id}                       401   401   401   401   401  200
GET    /internal/people/{holding}?user_id={user_id}             401   401   401   401   401  200
GET    /internal/people/inbound-emails/{inbound_id}?user_id={user_id} 401 401 401 401 401 200

GET    /api/v1/notifications/docs                               200   200   200   200   200  200
GET    /api/v1/notifications/docs/static{docs_file}             200   200   200   200   200  200
GET    /api/v1/notifications/openapi.json                       200   200   200   200   200  200
GET    /healthz                                                 200   200   200   200   200  200
GET    /readyz                                                  200   200   200   200   200  200
GET    /metrics                                                 200   200   200   200   200  200
"""

SENT: Mapping[str, Mapping[str, Any]] = {
    "conversation": {"subject": "Hello", "body": "Hello"},
    "about_order": {"subject": "Hello", "order_id": "{order_id}"},
    "for_user": {"subject": "Hello", "user_id": "{user_id}"},
    "message": {"body": "Hello"},
    "file": {"attachments": ["{unsent_id}"]},
    "new_with_file": {"subject": "Hello", "attachments": ["{unsent_id}"]},
    "unseen": {"body": "Hello", "seen_number": 0},
    "blank": {"body": "", "reply_body": "", "status": ""},
    "read": {"up_to": 1},
    "admins_conversation": {"user_id": "{user_id}", "subject": "Hello", "body": "Hello", "order_id": "{order_id}"},
    "status": {"status": "OPEN"},
    "reply": {"reply_body": "Hello", "status": "RESOLVED"},
    "gone": {"gone": True},
    "many": {"items": [{"id": "{conversation_id}", "seen_number": 9}], "read": True},
    "nobody": {"admin_id": None},
    "labels": {"add": ["hello"]},
    "label": {"name": "Hello"},
    "new_label": {"add": "hello"},
    "unassigned": {"admin_id": ""},
    "selected": {"ids": ["{conversation_id}"], "do": "read", "as_of": "2100-01-01T00:00:00Z"},
    "canned_reply": {"shortcut": "hello", "title": "Hello", "body": "Hello {{customer.name}}"},
    "both": {"ids": ["{conversation_id}", "{others_conversation_id}"]},
    "merge": {"into": "canary-ben"},
    "user": {"name": "Hello", "email": "hello@customer.test"},
    "order": {
        "user_id": "{user_id}",
        "number": "7",
        "status": "shipped",
        "total": "1.00",
        "currency": "EUR",
        "placed_at": "2026-01-02T03:04:05Z",
    },
    "webhook": {"url": "https://store.test/hooks", "types": ["message.posted"]},
    "disabled": {"enabled": False},
    "webhook_form": {"url": "https://store.test/hooks", "message.posted": "on"},
    "delivery": {"delivery_id": "{delivery_id}"},
    "range": {"from": "2026-01-01T00:00:00Z"},
    "line": {"type": "user", "id": "{user_id}", "name": "Hello"},
    "hand_over": {"token": "{token}"},
    "everywhere": {"everywhere": "true"},
    "nothing": {},
    "chosen": {"MENTION": "bell"},
    "wish": {"emails": "none"},
    "preferences": {"MENTION": {"bell": True, "email": False}},
}

_ROW = re.compile(r"(?P<method>[A-Z]+) +(?P<target>\S+)(?P<statuses>(?: +\d{3}){6})(?: +#(?P<sent>\w+))?")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    service: str
    method: str
    target: str
    statuses: Mapping[str, int]
    sent: str | None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_page(self) -> bool:
        """Return whether only the browser's cookie is accepted, and forms are sent."""
        return self.path.startswith(
            ("/dashboard", "/admin", "/attachments", "/messenger", "/session", "/notifications")
        )

    @property
    def is_public(self) -> bool:
        return self.statuses["nobody"] < 400

    @property
    def is_safe(self) -> bool:
        return self.method == "GET"

    @property
    def named(self) -> set[str]:
        """Return the placeholders for the owner's data."""
        text = self.target + json.dumps(SENT[self.sent] if self.sent else None)
        return {*re.findall(r"{(\w+)}", text)} - {
            "kind",
            "what",
            "token",
            "file",
            "docs_file",
            "position",
            "unsubscribe_token",
        }

    def __str__(self) -> str:
        return f"{self.method} {self.target}" + (f" {self.sent}" if self.sent else "")


def _rows(service: str, table: str) -> Iterator[Row]:
    _, *lines = (line for line in table.splitlines() if line)
    for line in lines:
        match = _ROW.fullmatch(line)
        assert match is not None, line
        statuses = dict(zip(CALLERS, map(int, match["statuses"].split()), strict=True))
        yield Row(service, match["method"], match["target"], statuses, match["sent"])


ROWS = [*_rows("conversations", CONVERSATIONS), *_rows("notifications", NOTIFICATIONS)]


def routes_of(app: FastAPI) -> set[str]:
    """Return all routes of an application, documented or not; those without methods as `ANY`."""
    routes: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, Mount):
            routes |= {f"GET {route.path}{{{'docs_file' if 'docs' in (route.path or '') else 'file'}}}"}
        else:
            path = re.sub(r":\w+}", "}", route.path or "")  # {id:uuid} matches a subset of {id}
            routes |= {f"{method} {path}" for method in (route.methods or {"ANY"}) - {"HEAD"}}
    return routes


def documented(app: FastAPI) -> set[str]:
    """Return the operations in an application's OpenAPI document."""
    paths = app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
