"""Settings of the notifications service."""

import re
from functools import cached_property
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from services.notifications.mail.addresses import ascii_domain_address, mailbox_of, sender_address
from services.notifications.mail.imap_url import ImapServer, parse_imap_url
from services.notifications.mail.listen_url import parse_listen_url
from services.notifications.mail.signing import Signer
from services.notifications.mail.smtp_url import ehlo_name, parse_smtp_url
from shared.people import LocaleTag, ZoneName
from shared.settings import DatabaseUrl, Days, HeaderSecret, Settings, TokenSettings, WebUrl, split_commas

NO_LISTENER = "off"
MONTH = 30 * 24 * 3600
CATCHER_PORT = 1025  # of Mailpit, MailHog and MailDev; no mail server listens there


def _sender(value: str) -> str:
    """Check `Name <address>` or `address`: with an invalid one every email would fail."""
    if not sender_address(value).isascii():
        raise ValueError("the sender's address must be ASCII")
    return value


def _recipient(value: str) -> str:
    ascii_domain_address(value)
    return value


def _ehlo_name(value: str) -> str:
    """Check a host name or an address literal: servers would refuse anything else, or it could inject a command."""
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|\[IPv6:[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", value):
        raise ValueError("must be a host name, such as mail.store.example, or an IP address in brackets")
    return value


def _dns_name(value: str) -> str:
    """Check a name in DNS, without the final dot: `store.example`, or a selector such as `chats`."""
    if not re.fullmatch(r"(?=.{1,200}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", value):
        raise ValueError("must be a name in DNS, international ones as xn--")
    return value.lower()


def _mail_domain(value: str) -> str:
    """Return a domain that may stand behind an `@`, in its form for mail servers."""
    try:
        return _dns_name(ascii_domain_address(f"reply@{value}").rpartition("@")[2].rstrip("."))
    except ValueError:
        raise ValueError("must be a domain, such as replies.store.example") from None


def _listen_url(url: str) -> str:
    if url != NO_LISTENER:
        parse_listen_url(url)
    return url


def _imap_url(url: SecretStr) -> SecretStr:
    parse_imap_url(url.get_secret_value())
    return url


def _folder(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("must be the name of a folder")
    return name


MailDomain = Annotated[str, AfterValidator(_mail_domain)]
Seconds = Annotated[int, Field(ge=0, le=MONTH)]
EmailCount = Annotated[int, Field(ge=0, le=100_000)]
Schedule = Annotated[tuple[Seconds, ...], Field(min_length=1)]
EhloName = Annotated[str, Field(max_length=255), AfterValidator(_ehlo_name)]
Sender = Annotated[str, AfterValidator(_sender)]
Recipient = Annotated[str, AfterValidator(_recipient)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class StoreSettings(Settings):
    """Settings of every process: the database, and when emails are due."""

    notifications_database_url: DatabaseUrl = Field(repr=False)
    retention_days: Days = 30
    email_delay_seconds: Annotated[float, Field(ge=0, le=MONTH)] = 30
    support_email_delay_seconds: Annotated[float, Field(ge=0, le=MONTH)] = 300


class MigrationSettings(StoreSettings):
    """Settings of migrations: the database role that owns the tables, if it is another one."""

    notifications_owner_url: DatabaseUrl | None = Field(default=None, repr=False)


class ReplySettings(StoreSettings):
    """Settings of every process that makes or takes addresses for replies by email. Without a domain there are none.

    `inbound_address` takes new conversations. `inbound_authserv_id` is the name by which the mail server in front signs
    its `Authentication-Results`.
    """

    inbound_domain: MailDomain | None = None
    inbound_secret: HeaderSecret | None = None
    inbound_address: Recipient | None = None
    inbound_authserv_id: str | None = None

    @model_validator(mode="after")
    def _has_secret(self) -> Self:
        if self.inbound_domain is not None and self.inbound_secret is None:
            raise PydanticCustomError("missing", "CHATS_INBOUND_SECRET: required with CHATS_INBOUND_DOMAIN")
        if self.inbound_address is not None and self.inbound_domain is None:
            raise PydanticCustomError("missing", "CHATS_INBOUND_DOMAIN: required with CHATS_INBOUND_ADDRESS")
        return self


class TakingSettings(ReplySettings):
    """Settings of every process that takes emails in.

    With `inbound_require_auth`, emails are held whose sender the mail server in front did not authenticate.
    """

    inbound_require_auth: bool = False


class ApiSettings(TakingSettings, TokenSettings):
    """Settings of the HTTP API. With `inbound_http_secret`, providers deliver emails to it.

    `time_zone` is that of admins' times whose own zone is not known, as for the emails.
    """

    inbound_http_secret: HeaderSecret | None = None
    time_zone: ZoneName = "UTC"

    @model_validator(mode="after")
    def _has_domain(self) -> Self:
        if self.inbound_http_secret is not None and self.inbound_domain is None:
            raise PydanticCustomError("missing", "CHATS_INBOUND_DOMAIN: required with CHATS_INBOUND_HTTP_SECRET")
        return self


class InboundSettings(TakingSettings):
    """Settings of the process that takes emails in and posts them. Originals are kept for `inbound_retention_days`.

    Without a domain it takes nothing in. With `inbound_imap_url`, it also reads a mailbox, and moves what it takes to
    the folder `inbound_imap_done`.
    """

    inbound_listen: Annotated[str, AfterValidator(_listen_url)] = "lmtp://127.0.0.1:8024"
    inbound_imap_url: Annotated[SecretStr, AfterValidator(_imap_url)] | None = None
    inbound_imap_done: Annotated[str, AfterValidator(_folder)] = "Customer Chats"
    inbound_retention_days: Days = 30
    conversations_url: WebUrl = "http://127.0.0.1:8001"
    public_url: WebUrl = "http://127.0.0.1:8000"
    email_from: Sender = "support@localhost"
    email_reply_to: Sender | None = None

    @property
    def imap_server(self) -> ImapServer | None:
        """The mailbox that is read; None without one."""
        return parse_imap_url(self.inbound_imap_url.get_secret_value()) if self.inbound_imap_url is not None else None

    @model_validator(mode="after")
    def _can_move(self) -> Self:
        server = self.imap_server
        if server is not None and self.inbound_domain is None:
            raise PydanticCustomError("missing", "CHATS_INBOUND_DOMAIN: required with CHATS_INBOUND_IMAP_URL")
        if server is not None and server.folder == self.inbound_imap_done:
            raise ValueError("CHATS_INBOUND_IMAP_DONE: must not be the folder in CHATS_INBOUND_IMAP_URL")
        return self


class EmailSettings(ReplySettings):
    """Settings of the worker and the sweeper, which handle events and send emails."""

    public_url: WebUrl = "http://127.0.0.1:8000"
    smtp_url: SecretStr | None = None
    smtp_connections: Annotated[int, Field(ge=1, le=100)] = 16
    email_from: Sender = "support@localhost"
    email_ehlo: EhloName | None = None
    email_reply_to: Sender | None = None
    dkim_domain: DnsName | None = None
    dkim_selector: DnsName | None = None
    dkim_key: SecretStr | None = None
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
    limit_mails_per_10_minutes: EmailCount = 10
    limit_mails_per_day: EmailCount = 100

    @property
    def ehlo(self) -> str:
        """The EHLO name: as set, or the host of the public URL."""
        return self.email_ehlo or ehlo_name(urlsplit(self.public_url).hostname or "")

    @cached_property
    def signer(self) -> Signer | None:
        """What signs emails; None if they are not signed."""
        if self.dkim_domain is None or self.dkim_selector is None or self.dkim_key is None:
            return None
        return Signer.read(self.dkim_domain, self.dkim_selector, self.dkim_key.get_secret_value())

    @model_validator(mode="after")
    def _can_sign(self) -> Self:
        given = [value is not None for value in (self.dkim_domain, self.dkim_selector, self.dkim_key)]
        if any(given) and not all(given):
            raise ValueError("to sign emails set all of CHATS_DKIM_DOMAIN, CHATS_DKIM_SELECTOR and CHATS_DKIM_KEY_FILE")
        try:
            _ = self.signer
        except ValueError as error:
            raise ValueError(f"CHATS_DKIM_KEY: {error}") from None
        return self

    @property
    def warning(self) -> str | None:
        """What the operator should know at the start: the pages are public, but no email reaches anybody."""
        if self.smtp_url is None or not self.public_url.startswith("https:"):
            return None
        if parse_smtp_url(self.smtp_url.get_secret_value()).port != CATCHER_PORT:
            return None
        return "emails go to a mail catcher and reach nobody: set CHATS_SMTP_URL to your mail server"

    @model_validator(mode="after")
    def _no_circle(self) -> Self:
        if (
            self.support_email
            and self.inbound_address
            and mailbox_of(self.support_email) == mailbox_of(self.inbound_address)
        ):
            raise ValueError(
                "CHATS_SUPPORT_EMAIL: emails to CHATS_INBOUND_ADDRESS would come back; people read neither"
            )
        return self

    @field_validator("smtp_url")
    @classmethod
    def _known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_smtp_url(url.get_secret_value())
        return url


class SweeperSettings(EmailSettings):
    """Settings of the sweeper, which also reads the event log."""

    conversations_url: WebUrl = "http://127.0.0.1:8001"
    feed_secret: HeaderSecret
