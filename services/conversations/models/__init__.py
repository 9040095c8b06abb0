"""The tables of the conversations service, a module for each part of the domain."""

from services.conversations.models.attachments import Attachment, FileDeletion
from services.conversations.models.audit import AuditEntry
from services.conversations.models.base import Base
from services.conversations.models.conversations import (
    UNREAD_BY_ADMIN,
    Conversation,
    ConversationEntry,
    CreateKey,
    Message,
)
from services.conversations.models.desk import CannedReply, Label, Presence
from services.conversations.models.emails import EmailStop, NotificationsCursor, UnmatchedEmail
from services.conversations.models.erasures import Erasure
from services.conversations.models.event_log import BrokerReport, FeedHead, FeedReader, LoggedEvent
from services.conversations.models.reports import ConversationFact, ReportProgress
from services.conversations.models.search import NoteSearchDocument, ParkedDocument, SearchDocument, SearchProgress
from services.conversations.models.users import (
    CUSTOM_SEARCH_FORM,
    FORMER_ORDER_OF,
    FORMER_ORDERS,
    ORDER_SEARCH_FORM,
    USER_SEARCH_FORM,
    BrowserSession,
    Order,
    User,
)
from services.conversations.models.webhooks import Webhook, WebhookDelivery, WebhookProgress

__all__ = [
    "CUSTOM_SEARCH_FORM",
    "FORMER_ORDERS",
    "FORMER_ORDER_OF",
    "ORDER_SEARCH_FORM",
    "UNREAD_BY_ADMIN",
    "USER_SEARCH_FORM",
    "Attachment",
    "AuditEntry",
    "Base",
    "BrokerReport",
    "BrowserSession",
    "CannedReply",
    "Conversation",
    "ConversationEntry",
    "ConversationFact",
    "CreateKey",
    "EmailStop",
    "Erasure",
    "FeedHead",
    "FeedReader",
    "FileDeletion",
    "Label",
    "LoggedEvent",
    "Message",
    "NoteSearchDocument",
    "NotificationsCursor",
    "Order",
    "ParkedDocument",
    "Presence",
    "ReportProgress",
    "SearchDocument",
    "SearchProgress",
    "UnmatchedEmail",
    "User",
    "Webhook",
    "WebhookDelivery",
    "WebhookProgress",
]
