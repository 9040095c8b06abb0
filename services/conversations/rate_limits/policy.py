"""How much somebody may do in a time, for all processes together.

What counts is a request that was let through, whatever became of it then; one that was refused neither counts nor
makes the wait longer. A conversation counts besides its first message. A request that comes again under its idempotency
key within the time counts once: it can save one message at most, however often it comes.

Redis is asked before the database: no transaction and no connection of the pool waits for it. Without a Redis, or while
it is away, there are no limits.
"""

import hashlib
import math
import os
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
from shared.auth import Principal, Role

PREFIX: Final = "chats:limit"  # of all keys
FAILED_SHARE: Final = 4  # one in so many sign-ins may fail
IPV6_PREFIX: Final = 64  # bits that a provider gives to one customer: below them anybody makes up addresses
MINUTE: Final = 60_000  # milliseconds
DAY: Final = 24 * 60 * MINUTE
PRIVATE: Final = [  # where a proxy beside us has its address, and a visitor from outside has none
    ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
SUSPICIOUS: Final = 10  # sign-ins in a row that come from one private address

log = structlog.get_logger()


class LimitedAction(StrEnum):
    """What is limited."""

    MESSAGE = "message"
    CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Rule:
    """So many of a kind in so many milliseconds; an amount of 0 is no rule."""

    kind: str
    amount: int
    period: int

    def window(self, subject: str) -> Window:
        """Return where it is counted for somebody."""
        return Window(f"{PREFIX}:{self.kind}:{subject}", self.amount, self.period)

    def __str__(self) -> str:
        return f"{self.amount} {self.kind.replace('-', ' ')} a {'minute' if self.period == MINUTE else 'day'}"


class Limits:
    """The limits of the settings."""

    def __init__(self, settings: ApiSettings, redis: FailopenRedis | None) -> None:
        self._windows = None if redis is None else SlidingWindows(redis)
        self._acts = {
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
        self, caller: Principal, acts: Sequence[LimitedAction], *, path: str = "", key: str | None = None
    ) -> None:
        """Count what a caller is about to do, or raise `RateLimited`; what comes again under its key counts once."""
        rules = [rule for act in acts if (rule := self._acts.get((caller.role, act)))]
        await self._take(rules, caller.id, None if key is None else f"{path} {key}")

    async def allow_sign_in(self, user: Principal) -> None:
        """Count a user who signs in by a token that was verified, or raise `RateLimited`.

        By the user, not by the address: behind a proxy or a provider's NAT many people have the same one.
        """
        await self._take([self._sign_ins], user.id)

    async def allow_renewal(self, user: Principal) -> None:
        """Count a user whose browser renews its session, or raise `RateLimited`."""
        await self._take([self._renewals], user.id)

    async def allow_failed_sign_in(self, address: str) -> None:
        """Count a sign-in from an address that was refused, or raise `RateLimited`."""
        await self._take([self._failures], network_of(address))

    async def _take(self, rules: Sequence[Rule], subject: str, request: str | None = None) -> None:
        """Count a request by all of these rules, or by none and raise `RateLimited`."""
        counted = [rule for rule in rules if rule.amount]
        if self._windows is None or not counted:
            return
        what = os.urandom(12).hex() if request is None else hashlib.sha256(request.encode()).hexdigest()
        full = await self._windows.consume([rule.window(subject) for rule in counted], what)
        if full is not None:
            index, wait = full
            seconds = max(1, math.ceil(wait / 1000))
            raise RateLimited(f"{counted[index]} were reached. Try again in {seconds} s.", seconds)


class SignInOrigins:
    """Warns once a process when sign-ins all come from one private address: most likely a proxy that is not named."""

    def __init__(self) -> None:
        self._address: str | None = None
        self._count = 0
        self._has_warned = False

    def note(self, address: str) -> None:
        """Take note of where somebody signs in from, with or without success."""
        if address != self._address:
            self._address, self._count = address, 0
        self._count += 1
        if self._count >= SUSPICIOUS and not self._has_warned and _is_private(address):
            self._has_warned = True
            log.warning(
                "every sign-in comes from one private address: name it in CHATS_TRUSTED_PROXIES if it is a proxy",
                address=address,
                sign_ins=self._count,
            )


def _is_private(address: str) -> bool:
    try:
        known = ip_address(address)
    except ValueError:
        return False
    return any(known in network for network in PRIVATE)


def network_of(address: str) -> str:
    """Return what stands for whoever has an address: the address, or the network of an IPv6 one."""
    try:
        known = ip_address(address)
    except ValueError:
        return "unknown"
    if not isinstance(known, IPv6Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ip_network((int(known), IPV6_PREFIX), strict=False))
