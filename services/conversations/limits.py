"""How much somebody may do in a time: counted in Redis, over the last minute or day, for all processes together.

What counts is a request that was let through, whatever became of it then; one that was refused neither counts nor
makes the wait longer. A conversation counts besides its first message. A request that comes again under its idempotency
key counts once: it can save one message at most, however often it comes.

Redis is asked before the database: no transaction and no connection of the pool waits for it.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from services.conversations.errors import RateLimited
from services.conversations.guarded_redis import GuardedRedis
from services.conversations.settings import ApiSettings
from shared.auth import Principal, Role

REMEMBERED: Final = 60 * 60  # seconds that a request that was let through is known by its idempotency key
PREFIX: Final = "chats"  # of all keys
FAILED_SHARE: Final = 4  # one in so many sign-ins may fail
IPV6_PREFIX: Final = 64  # bits that a provider gives to one customer: below them anybody makes up addresses


class Act(StrEnum):
    """What is limited."""

    MESSAGE = "message"
    CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Rule:
    """So many of a kind in a time. `words` say it to whoever is over it."""

    kind: str
    item: RateLimitItem
    words: str


class Limits:
    """The limits of the settings. Without a Redis, or while it is away, there are none."""

    def __init__(self, settings: ApiSettings, redis: GuardedRedis | None) -> None:
        self._redis = redis
        self._acts = {
            (Role.CUSTOMER, Act.MESSAGE): _a_minute("messages", settings.limit_messages_per_minute),
            (Role.CUSTOMER, Act.CONVERSATION): _a_day("conversations", settings.limit_conversations_per_day),
            (Role.ADMIN, Act.MESSAGE): _a_minute("admin-messages", settings.limit_admin_messages_per_minute),
        }
        sign_ins = settings.limit_sign_ins_per_minute
        self._sign_ins = _a_minute("sign-ins", sign_ins)
        self._renewals = _a_minute("renewals", sign_ins)
        self._failures = _a_minute("failed-sign-ins", math.ceil(sign_ins / FAILED_SHARE))
        if redis is not None:
            pool = redis.client.connection_pool
            # The pool knows where; the URL is only a name for the kind of storage.
            storage = RedisStorage("async+redis://", implementation="redispy", key_prefix=PREFIX, connection_pool=pool)  # type: ignore[arg-type]
            self._windows = MovingWindowRateLimiter(storage)

    async def allow(self, caller: Principal, acts: Sequence[Act], *, path: str = "", key: str | None = None) -> None:
        """Count what a caller is about to do, or raise `RateLimited`; what comes again under its key counts once."""
        rules = [rule for act in acts if (rule := self._acts.get((caller.role, act)))]
        once = None if key is None else _digest(caller.role, caller.id, path, key)
        await self._take(rules, caller.id, once)

    async def allow_sign_in(self, address: str) -> None:
        """Count somebody who wants to sign in from an address, or raise `RateLimited`."""
        await self._take([rule for rule in (self._sign_ins,) if rule], network_of(address), untaken=self._failures)

    async def allow_renewal(self, address: str) -> None:
        """Count a browser that has its session renewed, or raise `RateLimited`."""
        await self._take([rule for rule in (self._renewals,) if rule], network_of(address))

    async def note_failed_sign_in(self, address: str) -> None:
        """Count that somebody could not sign in; too many are `RateLimited` before they are looked at."""
        if (redis := self._redis) is not None and (rule := self._failures):
            await redis.ask(lambda: self._windows.hit(rule.item, rule.kind, network_of(address)))

    async def _take(
        self, rules: Sequence[Rule], subject: str, once: str | None = None, *, untaken: Rule | None = None
    ) -> None:
        if (redis := self._redis) is None or not (rules or untaken):
            return
        refused = await redis.ask(lambda: self._refusal(redis, rules, subject, once, untaken))
        if refused:
            rule, seconds = refused
            raise RateLimited(f"{rule.words} were reached. Try again in {seconds} s.", seconds)

    async def _refusal(
        self, redis: GuardedRedis, rules: Sequence[Rule], subject: str, once: str | None, untaken: Rule | None
    ) -> tuple[Rule, int] | None:
        """Take one of each, or of none and say which is used up, and for how many seconds."""
        if once is not None and await redis.client.exists(once):
            return None
        for rule in (*rules[1:], untaken):
            if rule is not None and not await self._windows.test(rule.item, rule.kind, subject):
                return rule, await self._wait(rule, subject)
        for rule in rules:
            if not await self._windows.hit(rule.item, rule.kind, subject):
                seconds = await self._wait(rule, subject)
                # Its twin, which came at the same moment, may have been let through just now.
                return None if once is not None and await redis.client.exists(once) else (rule, seconds)
        if once is not None:
            await redis.client.set(once, 1, ex=REMEMBERED)
        return None

    async def _wait(self, rule: Rule, subject: str) -> int:
        free_at, _ = await self._windows.get_window_stats(rule.item, rule.kind, subject)
        return max(1, math.ceil(free_at - time.time()))


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


def _a_minute(kind: str, amount: int) -> Rule | None:
    words = f"{amount} {kind.replace('-', ' ')} a minute"
    return Rule(kind, RateLimitItemPerMinute(amount, namespace="limit"), words) if amount else None


def _a_day(kind: str, amount: int) -> Rule | None:
    return Rule(kind, RateLimitItemPerDay(amount, namespace="limit"), f"{amount} {kind} a day") if amount else None


def _digest(*parts: str) -> str:
    return f"{PREFIX}:once:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"
