"""Rate limits, shared by all processes.

A request that is allowed counts even if it fails later; a request that is refused does not count. A new conversation
with a message counts as both. Retries with the same idempotency key count once within the period, because they save at
most one message; so does a request that is handled again after a deadlock.

Redis is called before the database, so no transaction or pooled connection waits for it. Without Redis, or while it is
unavailable, there are no limits.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

import structlog

from services.conversations.errors import RateLimited
from services.conversations.rate_limits.failopen_redis import FailopenRedis
from services.conversations.rate_limits.sliding_window import SlidingWindows, Window
from services.conversations.settings import ApiSettings
from shared.api.repeating import request_identity
from shared.auth.principal import Principal
from shared.settings import Role

PREFIX: Final = "chats:limit"  # of all keys
FAILED_SHARE: Final = 4  # the limit of failed sign-ins is that of all sign-ins divided by this
IPV6_PREFIX: Final = 64  # bits of the network that a provider assigns to one customer, who can use any address in it
MINUTE: Final = 60_000  # milliseconds
DAY: Final = 24 * 60 * MINUTE
PRIVATE: Final = [  # networks of proxies, but not of visitors from the internet
    ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
SUSPICIOUS: Final = 10  # consecutive sign-ins from one private address

log = structlog.get_logger()


class LimitedAction(StrEnum):
    """An action that is limited."""

    MESSAGE = "message"
    CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Rule:
    """At most `amount` actions of a kind in `period` milliseconds; an amount of 0 means no limit."""

    kind: str
    amount: int
    period: int

    def window(self, subject: str) -> Window:
        """Return the window that counts a subject's actions."""
        return Window(f"{PREFIX}:{self.kind}:{subject}", self.amount, self.period)

    def __str__(self) -> str:
        return f"{self.amount} {self.kind.replace('-', ' ')} per {'minute' if self.period == MINUTE else 'day'}"


class Limits:
    """The rate limits from the settings."""

    def __init__(self, settings: ApiSettings, redis: FailopenRedis | None) -> None:
        self._windows = None if redis is None else SlidingWindows(redis)
        self._action_rules = {
            (Role.CUSTOMER, LimitedAction.MESSAGE): Rule("messages", settings.limit_messages_per_minute, MINUTE),
            (Role.CUSTOMER, LimitedAction.CONVERSATION): Rule(
                "conversations", settings.limit_conversations_per_day, DAY
            ),
            (Role.ADMIN, LimitedAction.MESSAGE): Rule(
                "admin-messages", settings.limit_admin_messages_per_minute, MINUTE
            ),
        }
        sign_ins = settings.limit_sign_ins_per_minute
        self._sign_ins = Rule("sign-ins", sign_ins, MINUTE)
        self._renewals = Rule("renewals", sign_ins, MINUTE)
        self._failures = Rule("failed-sign-ins", math.ceil(sign_ins / FAILED_SHARE), MINUTE)

    async def allow(
        self, caller: Principal, actions: Sequence[LimitedAction], *, path: str = "", key: str | None = None
    ) -> None:
        """Count a caller's actions, or raise `RateLimited`. Retries with the same path and key count once."""
        rules = [rule for action in actions if (rule := self._action_rules.get((caller.role, action)))]
        await self._count(rules, caller.id, None if key is None else f"{path} {key}")

    async def allow_sign_in(self, user: Principal) -> None:
        """Count a sign-in with a verified token, or raise `RateLimited`.

        Counts per user, not per address, because many users share an address behind a proxy or a provider's NAT.
        """
        await self._count([self._sign_ins], user.id)

    async def allow_renewal(self, user: Principal) -> None:
        """Count the renewal of a browser session, or raise `RateLimited`."""
        await self._count([self._renewals], user.id)

    async def allow_failed_sign_in(self, address: str) -> None:
        """Count a failed sign-in from an address, or raise `RateLimited`."""
        await self._count([self._failures], network_of(address))

    async def _count(self, rules: Sequence[Rule], subject: str, request: str | None = None) -> None:
        """Count a request by all of these rules; if it exceeds one, count it by none and raise `RateLimited`."""
        counted = [rule for rule in rules if rule.amount]
        if self._windows is None or not counted:
            return
        request_id = request_identity() if request is None else hashlib.sha256(request.encode()).hexdigest()
        exceeded = await self._windows.consume([rule.window(subject) for rule in counted], request_id)
        if exceeded is not None:
            index, wait = exceeded
            seconds = max(1, math.ceil(wait / 1000))
            unit = "second" if seconds == 1 else "seconds"
            detail = f"Rate limit exceeded: {counted[index]}. Try again in {seconds} {unit}."
            raise RateLimited(detail, seconds)


class SignInOrigins:
    """Warns once per process if all sign-ins come from one private address, probably that of an unlisted proxy."""

    def __init__(self) -> None:
        self._address: str | None = None
        self._count = 0
        self._has_warned = False

    def note(self, address: str) -> None:
        """Record the address of a sign-in, successful or not."""
        if address != self._address:
            self._address, self._count = address, 0
        self._count += 1
        if self._count >= SUSPICIOUS and not self._has_warned and _is_private(address):
            self._has_warned = True
            log.warning(
                "all sign-ins come from one private address: if it is a proxy, add it to CHATS_TRUSTED_PROXIES",
                address=address,
                sign_ins=self._count,
            )


def _is_private(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in PRIVATE)


def network_of(address: str) -> str:
    """Return the key by which to count an address: the address itself, or the network of an IPv6 address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return "unknown"
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip_network((int(ip), IPV6_PREFIX), strict=False))
