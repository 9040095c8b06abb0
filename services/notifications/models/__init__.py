"""The tables of the notifications service, a module for each part of the domain."""

from services.notifications.models.base import Base
from services.notifications.models.delivery import (
    DEFERRED,
    RANDOM_KEY,
    Bounce,
    DeliveryAttempt,
    Email,
    EmailMessage,
    Mute,
    SendingControl,
    Suppression,
)
from services.notifications.models.erasures import Erasure
from services.notifications.models.event_consumer import ConversationState, FeedCursor, InboxEntry, Person
from services.notifications.models.event_log import LOGGED_EVENTS, BrokerReport, FeedHead, FeedReader
from services.notifications.models.inbound import HeldNotice, InboundEmail, ReplyAddress
from services.notifications.models.notifications import AdminMark, AdminNotification, AdminRead, Bell, Notification

__all__ = [
    "DEFERRED",
    "LOGGED_EVENTS",
    "RANDOM_KEY",
    "AdminMark",
    "AdminNotification",
    "AdminRead",
    "Base",
    "Bell",
    "Bounce",
    "BrokerReport",
    "ConversationState",
    "DeliveryAttempt",
    "Email",
    "EmailMessage",
    "Erasure",
    "FeedCursor",
    "FeedHead",
    "FeedReader",
    "HeldNotice",
    "InboundEmail",
    "InboxEntry",
    "Mute",
    "Notification",
    "Person",
    "ReplyAddress",
    "SendingControl",
    "Suppression",
]
