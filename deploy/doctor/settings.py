"""Check the settings in the environment: which processes can start with them, and what is unusual about them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from deploy.doctor.findings import Finding, fault, note, ok, warning
from services.conversations import settings as conversations
from services.notifications import settings as notifications
from shared.settings import Settings, TokenSettings, settings_errors

PROCESSES: Final[Mapping[str, type[Settings]]] = MappingProxyType(
    {
        "api": conversations.ApiSettings,
        "relay": conversations.StoreSettings,
        "jobs": conversations.JobsSettings,
        "thumbnails": conversations.FileSettings,
        "notifications-api": notifications.ApiSettings,
        "worker": notifications.EmailSettings,
        "sweeper": notifications.SweeperSettings,
        "inbound": notifications.InboundSettings,
    }
)
_CLASSES: Final[Sequence[type[Settings]]] = (
    *PROCESSES.values(),
    conversations.MigrationSettings,
    notifications.MigrationSettings,
)
# Variables of the proxy, of Flower, of `make run` and of the example stores, and those that are options too.
_OTHERS: Final = (
    *("CHATS_API_UPSTREAM", "CHATS_NOTIFICATIONS_UPSTREAM", "CHATS_HOST", "CHATS_PORT", "CHATS_LISTEN_HOST"),
    *("CHATS_DATA_DIR", "CHATS_DEMO", "CHATS_FLOWER_BASIC_AUTH", "CHATS_DOCTOR_TOKEN", "CHATS_SUPERVISED_FOR"),
    *("CHATS_URL", "CHATS_WEBHOOK_SECRET"),
)
_NONE_STARTS: Final = warning(
    "No process can start in this environment.", "Run this where a process runs, with the same settings."
)
KNOWN: Final = frozenset([*_OTHERS, *(f"CHATS_{name.upper()}" for kind in _CLASSES for name in kind.model_fields)])


async def check() -> Sequence[Finding]:
    """Check the settings of each process."""
    errors = {process: settings_errors(kind) for process, kind in PROCESSES.items()}
    complete = [process for process, found in errors.items() if not found]
    invalid = {text for found in errors.values() for text, is_missing in found if not is_missing}
    findings = [ok(f"Complete for: {', '.join(complete)}.")] if complete else [_NONE_STARTS]
    findings += [fault(f"{text}.", "Correct it: processes that read it refuse to start.") for text in sorted(invalid)]
    for process, found in errors.items():
        if missing := [text for text, is_missing in found if is_missing]:
            findings.append(note(f"{process} cannot start in this environment: {'; '.join(missing)}."))
    return [*findings, *_unknown(), *_unusual()]


def why_unchecked(kind: type[Settings]) -> Finding | None:
    """Return why an area that needs these settings cannot be checked: a fault if one is invalid; None if it can."""
    errors = settings_errors(kind)
    if invalid := [text for text, is_missing in errors if not is_missing]:
        return fault(f"Not checked: {'; '.join(invalid)}.", "Correct it: processes that read it refuse to start.")
    return note(f"Not checked: {'; '.join(text for text, _ in errors)}.") if errors else None


def _unknown() -> Iterator[Finding]:
    for name in sorted(os.environ):
        base = name.removesuffix("_FILE")
        if name.startswith("CHATS_") and base not in KNOWN:
            close = get_close_matches(base, KNOWN, 1, 0.8)
            yield warning(f"{name} is not a setting.", f"Did you mean {close[0]}?" if close else "Remove it.")


def _unusual() -> Iterator[Finding]:
    """Yield findings about valid settings that are right for a trial only."""
    if not settings_errors(conversations.StoreSettings):
        yield from _of_redis(conversations.StoreSettings())
    if not settings_errors(notifications.EmailSettings):
        yield from _of_emails(notifications.EmailSettings())
    if not settings_errors(notifications.ReplySettings):
        yield from _of_incoming_emails(notifications.ReplySettings())
    if not settings_errors(TokenSettings):
        yield from _of_public_url(TokenSettings())


def _of_redis(settings: conversations.StoreSettings) -> Iterator[Finding]:
    if settings.redis_url is None:
        text = "Without CHATS_REDIS_URL there are no rate limits, and live pages update once a second."
        yield warning(text, "Set CHATS_REDIS_URL to a Redis or Valkey.")
    elif is_same_server(settings.redis_url, settings.broker_url):
        text = "CHATS_REDIS_URL and CHATS_BROKER_URL name the same server: while it is full, there are no rate limits."
        yield warning(text, "Use a server of its own for CHATS_REDIS_URL.")


def _of_emails(settings: notifications.EmailSettings) -> Iterator[Finding]:
    if settings.smtp_url is None:
        yield warning("Without CHATS_SMTP_URL every email is suppressed.", "Set CHATS_SMTP_URL to your mail server.")
    if settings.email_only_to is not None:
        yield note(f"Emails go to {', '.join(settings.email_only_to)} only (CHATS_EMAIL_ONLY_TO).")
    if settings.support_email is None:
        yield note("CHATS_SUPPORT_EMAIL is not set: no email tells the admins about new messages.")


def _of_incoming_emails(settings: notifications.ReplySettings) -> Iterator[Finding]:
    if settings.inbound_address is not None and settings.inbound_authserv_id is None:
        text = "Emails to CHATS_INBOUND_ADDRESS are held: without CHATS_INBOUND_AUTHSERV_ID nothing proves the sender."
        yield warning(text, "Set it to the name that your mail server writes into Authentication-Results.")


def _of_public_url(settings: TokenSettings) -> Iterator[Finding]:
    url = urlsplit(settings.public_url)
    if is_local(url.hostname or ""):
        text = f"CHATS_PUBLIC_URL is {settings.public_url}: links in emails work on this machine only."
        yield note(text, "This is right for a trial. For a store, set it to the address that customers see.")
    elif url.scheme != "https":
        text = f"CHATS_PUBLIC_URL is {settings.public_url}: sessions and messages travel unencrypted."
        yield warning(text, "Serve the public origin by https, and write that address here.")


def is_local(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_same_server(first: str, second: str) -> bool:
    """Return whether two URLs of Redis servers name the same one. Database and user may differ."""
    return _server(first) == _server(second)


def _server(url: str) -> tuple[str | None, int | None, str]:
    parts = urlsplit(url)
    return parts.hostname, parts.port, parts.path if parts.hostname is None else ""
