"""Settings of the notifications service."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from services.notifications.mail.addresses import ascii_domain_address, sender_address
from services.notifications.mail.smtp_url import ehlo_name, parse_smtp_url
from shared.people import LocaleTag, ZoneName
from shared.settings import DatabaseUrl, Days, Settings, TokenSettings, WebUrl, split_commas

MONTH = 30 * 24 * 3600


def _sender(value: str) -> str:
    """Check `Name <address>` or `address`: a bad one would fail every mail."""
    if not sender_address(value).isascii():
        raise ValueError("a sender needs an address of ASCII characters")
    return value


def _recipient(value: str) -> str:
    ascii_domain_address(value)
    return value


def _ehlo_name(value: str) -> str:
    """Check a host name or an address literal: what else stood there would be refused, or end the command."""
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|\[IPv6:[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", value):
        raise ValueError("a name for EHLO is a host name, such as mail.store.example, or an address in brackets")
    return value


Seconds = Annotated[int, Field(ge=0, le=MONTH)]
Most = Annotated[int, Field(ge=0, le=100_000)]
Schedule = Annotated[tuple[Seconds, ...], Field(min_length=1)]
EhloName = Annotated[str, Field(max_length=255), AfterValidator(_ehlo_name)]
Sender = Annotated[str, AfterValidator(_sender)]
Recipient = Annotated[str, AfterValidator(_recipient)]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class StoreSettings(Settings):
    """What reaches the service's own database, and keeps its mails in step with it."""

    notifications_database_url: DatabaseUrl = Field(repr=False)
    retention_days: Days = 30
    email_delay_seconds: Annotated[float, Field(ge=0, le=MONTH)] = 30
    support_email_delay_seconds: Annotated[float, Field(ge=0, le=MONTH)] = 300


class MigrationSettings(StoreSettings):
    """What migrations need besides: who owns the tables, if not those who work with them."""

    notifications_owner_url: DatabaseUrl | None = Field(default=None, repr=False)


class ApiSettings(StoreSettings, TokenSettings):
    """What the HTTP API needs besides."""


class MailSettings(StoreSettings):
    """What handling events and sending mail need: the worker and the sweeper."""

    public_url: WebUrl = "http://127.0.0.1:8000"
    smtp_url: SecretStr | None = None
    smtp_connections: Annotated[int, Field(ge=1, le=100)] = 16
    email_from: Sender = "support@localhost"
    email_ehlo: EhloName | None = None
    email_reply_to: Sender | None = None
    time_zone: ZoneName = "UTC"
    locale: LocaleTag = "en"
    email_only_to: Annotated[Patterns | None, NoDecode, BeforeValidator(split_commas)] = None
    email_retry_seconds: Annotated[Schedule, NoDecode, BeforeValidator(split_commas)] = (
        60,
        300,
        900,
        1800,
        3600,
        7200,
    )
    email_uncertain_seconds: Seconds = 900
    support_email: Recipient | None = None
    limit_mails_per_10_minutes: Most = 10
    limit_mails_per_day: Most = 100

    @property
    def ehlo(self) -> str:
        """The name that we give the mail server: as set, or the public URL's host."""
        return self.email_ehlo or ehlo_name(urlsplit(self.public_url).hostname or "")

    @field_validator("smtp_url")
    @classmethod
    def _known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_smtp_url(url.get_secret_value())
        return url


class SweeperSettings(MailSettings):
    """What the sweeper needs besides, to read the event log."""

    conversations_url: WebUrl = "http://127.0.0.1:8001"
    feed_secret: SecretStr
