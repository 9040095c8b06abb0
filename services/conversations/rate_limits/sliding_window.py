"""Counts in Redis over the last minute or day, for all processes together: one script, one round trip.

Requests of the same moment go in one pipeline. Why no library does this: ADR 0010.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.conversations.rate_limits.failopen_redis import FailopenRedis
from shared.batcher import Batcher

BATCH: Final = 100  # counts in a pipeline: few enough to be answered in time

# A window is a sorted set: what was counted, by when. Every window is looked at before any counts. Redis' own clock:
# those of the processes may differ.
_CONSUME = """
local time = redis.call('time')
local now, what = time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1]
for i, window in ipairs(KEYS) do
    local amount, period = tonumber(ARGV[i * 2]), tonumber(ARGV[i * 2 + 1])
    redis.call('zremrangebyscore', window, '-inf', now - period)
    if not redis.call('zscore', window, what) then
        local count = redis.call('zcard', window)
        if count >= amount then
            local oldest = redis.call('zrange', window, count - amount, count - amount, 'withscores')
            return {i, oldest[2] + period - now}
        end
    end
end
for i, window in ipairs(KEYS) do
    redis.call('zadd', window, 'nx', now, what)
    redis.call('pexpire', window, ARGV[i * 2 + 1])
end
return {0, 0}
"""


@dataclass(frozen=True, slots=True)
class Window:
    """At most `amount` of something in `period` milliseconds."""

    name: str
    amount: int
    period: int


@dataclass(frozen=True, slots=True)
class _Consumption:
    windows: Sequence[Window]
    what: str


# The number of the window that is full, or 0, and for how many milliseconds.
_Answer = tuple[int, int]


class SlidingWindows:
    """Counts as long as Redis answers; while it does not, nothing is full."""

    def __init__(self, redis: FailopenRedis) -> None:
        self._redis = redis
        self._together: Batcher[_Consumption, _Answer] = Batcher(self._take_all, BATCH)

    async def consume(self, windows: Sequence[Window], what: str) -> tuple[int, int] | None:
        """Count something once in each window, however often it comes.

        If one of them is full, count it in none, and return the index of that one and the milliseconds until it has
        room again.
        """
        full, wait = await self._together.submit(_Consumption(windows, what))
        return (full - 1, wait) if full else None

    async def _take_all(self, takes: Sequence[_Consumption]) -> Sequence[_Answer]:
        return await self._redis.call(lambda: self._send(takes)) or [(0, 0)] * len(takes)

    async def _send(self, takes: Sequence[_Consumption]) -> list[_Answer]:
        async with self._redis.client.pipeline(transaction=False) as pipeline:
            for take in takes:
                names = [window.name for window in take.windows]
                rules = [part for each in take.windows for part in (each.amount, each.period)]
                pipeline.eval(_CONSUME, len(names), *names, take.what, *rules)
            return [(int(full), int(wait)) for full, wait in await pipeline.execute()]
