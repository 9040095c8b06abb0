"""What the services' settings have in common. Each service has a class of its own, built once at its edge."""

import re
from enum import StrEnum
from ipaddress import ip_network
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.database_url import read_database_url
from shared.tls import check_verified

MIN_SECRET_BYTES = 32
MAX_PORT = 65_535
_ORIGIN = re.compile(r"(?P<site>(?P<scheme>https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\]))(:(?P<port>[0-9]{1,5}))?")
REDIS_SCHEMES = ("redis", "rediss", "redis+socket")
BROKER_SCHEMES = (*REDIS_SCHEMES, "amqp", "amqps")


S = TypeVar("S", bound="Settings")


class Role(StrEnum):
    """The side a token speaks for."""

    CUSTOMER = "customer"
    ADMIN = "admin"
    STORE = "store"


class SettingsError(Exception):
    """Settings that a process cannot start with. `str()` is one line for a person, without any value."""


def one_of_schemes(*schemes: str) -> AfterValidator:
    """Accept a URL of one of these schemes only; the error never repeats the URL, it may hold a password."""

    def check(url: str) -> str:
        try:
            scheme, _ = urlsplit(url).scheme, urlsplit(url).port
        except ValueError:  # its text may be a part of the password
            raise ValueError(
                "it cannot be read: percent-encode the user and the password, and give the port as a number"
            ) from None
        if scheme not in schemes:
            raise ValueError(f"its URL scheme must be one of {', '.join(schemes)}")
        return url

    return AfterValidator(check)


def _database_url(url: str) -> str:
    read_database_url(url)
    return url


def _verified_url(url: str) -> str:
    check_verified(url)
    return url


def split_commas(value: object) -> object:
    """Let a list be written as `a,b` in the environment."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _long_enough(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret must have {MIN_SECRET_BYTES} bytes or more")
    return secret


def _origin(value: str) -> str:
    """Return an origin as browsers write it, in small letters and without the port that its scheme has anyway."""
    found = _ORIGIN.fullmatch(value.lower())
    if found is None or int(found["port"] or 0) > MAX_PORT:
        raise ValueError("an origin is written https://store.example, without a path, and a host's umlauts as xn--")
    is_usual = found["port"] == {"http": "80", "https": "443"}[found["scheme"]]
    return found["site"] if found["port"] is None or is_usual else found[0]


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    is_clean = value.isprintable() and " " not in value
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or not is_clean or parts.port == 0:
        raise ValueError("this is written https://id.example/keys, with http or https and a host")
    return value


def _web_url(value: str) -> str:
    try:
        if not urlsplit(_http_url(value)).query:
            return value
    except ValueError:
        pass
    raise ValueError("this is written https://store.example, with http or https, a host, and nothing behind a path")


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("a proxy is trusted by its address or network, as 127.0.0.1 or 172.16.0.0/12") from None


# They may hold a password: a field of theirs has `repr=False`.
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
BrokerUrl = Annotated[str, one_of_schemes(*BROKER_SCHEMES), AfterValidator(_verified_url)]
RedisUrl = Annotated[str, one_of_schemes(*REDIS_SCHEMES), AfterValidator(_verified_url)]
Secret = Annotated[SecretStr, AfterValidator(_long_enough)]
Origin = Annotated[str, AfterValidator(_origin)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
Network = Annotated[str, AfterValidator(_network)]
Days = Annotated[float, Field(gt=0, le=3650)]


class Settings(BaseSettings):
    """Settings of every process, read from `CHATS_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="CHATS_", frozen=True, extra="ignore", env_ignore_empty=True)

    store_name: str = "Customer support"
    broker_url: BrokerUrl = Field(default="redis://127.0.0.1:6379/0", repr=False)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class TokenSettings(Settings):
    """Settings of a process that verifies tokens."""

    auth_secret: Annotated[list[Secret], NoDecode] = Field(default_factory=list, max_length=2)
    auth_jwks_url: HttpUrl | None = None
    auth_audience: Annotated[list[str], NoDecode] = Field(default_factory=lambda: ["chats"], min_length=1)
    auth_audience_claim: str = "aud"
    auth_issuer: str | None = None
    auth_role_claim: str = "role"
    auth_role_map: Annotated[dict[str, Role], NoDecode] = Field(default_factory=dict)
    auth_default_role: Role | None = None
    store_origins: Annotated[list[Origin], NoDecode] = Field(default_factory=list)
    public_url: WebUrl = "http://127.0.0.1:8000"
    docs: bool = True
    drain_seconds: Annotated[float, Field(ge=0, le=15)] = 5  # after SIGTERM, until the socket closes
    # Whose X-Forwarded-For and X-Forwarded-Proto count: everybody else could claim to be anybody.
    trusted_proxies: Annotated[list[Network], NoDecode] = Field(default_factory=lambda: ["127.0.0.1", "::1"])

    @model_validator(mode="before")
    @classmethod
    def _read_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in {"auth_audience", "auth_secret", "store_origins", "trusted_proxies"} & values.keys():
            values[name] = split_commas(values[name])
        roles = values.get("auth_role_map")
        if isinstance(roles, str):
            pairs = [part.split("=", 1) for part in roles.split(",") if part.strip()]
            if any(len(pair) < 2 for pair in pairs):  # noqa: PLR2004 - a pair has two parts
                raise ValueError("CHATS_AUTH_ROLE_MAP is written claim=role,claim=role")
            values["auth_role_map"] = {claim.strip(): role.strip() for claim, role in pairs}
        return values

    @model_validator(mode="after")
    def _can_verify(self) -> Self:
        if not self.auth_secret and not self.auth_jwks_url:
            raise ValueError("neither CHATS_AUTH_SECRET nor CHATS_AUTH_JWKS_URL is set, so no token could be verified")
        return self


def read_settings(kind: type[S]) -> S:
    """Build settings from the environment, or raise `SettingsError` with every fault in one line."""
    try:
        return kind()
    except ValidationError as error:
        # What is made of other settings is not at fault itself.
        faults = [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]
        raise SettingsError("; ".join(_fault(kind, fault["loc"], fault["msg"]) for fault in faults)) from None


def _fault(kind: type[Settings], loc: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not loc:
        return message
    return f"{kind.model_config['env_prefix']}{str(loc[0]).upper()}: {message[:1].lower()}{message[1:]}"
