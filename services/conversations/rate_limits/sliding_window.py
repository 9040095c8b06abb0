"""Sliding windows in Redis, shared by all processes: one script, one round trip.

Concurrent requests share a pipeline. ADR 0010 says why no library does this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.conversations.rate_limits.failopen_redis import FailopenRedis
from shared.batcher import Batcher

BATCH: Final = 100  # requests in a pipeline: few enough to be answered in time

# A window is a sorted set of request ids by time. The script checks all windows before it adds to any. It uses the
# clock of Redis, because those of the processes may differ.
_CONSUME = """
local time = redis.call('time')
local now, request = time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1]
for i, window in ipairs(KEYS) do
    local amount, period = tonumber(ARGV[i * 2]), tonumber(ARGV[i * 2 + 1])
    redis.call('zremrangebyscore', window, '-inf', now - period)
    if not redis.call('zscore', window, request) then
        local count = redis.call('zcard', window)
        if count >= amount then
            local oldest = redis.call('zrange', window, count - amount, count - amount, 'withscores')
            return {i, oldest[2] + period - now}
        end
    end
end
for i, window in ipairs(KEYS) do
    redis.call('zadd', window, 'nx', now, request)
    redis.call('pexpire', window, ARGV[i * 2 + 1])
end
return {0, 0}
"""


@dataclass(frozen=True, slots=True)
class Window:
    """A count of at most `amount` requests in `period` milliseconds; `name` is its key."""

    name: str
    amount: int
    period: int


@dataclass(frozen=True, slots=True)
class _Consumption:
    windows: Sequence[Window]
    request_id: str


# The number of the full window, counted from 1, or 0 if none is full; the milliseconds until it has space.
_Result = tuple[int, int]


class SlidingWindows:
    """Sliding windows that count while Redis answers. While it does not, no window is full."""

    def __init__(self, redis: FailopenRedis) -> None:
        self._redis = redis
        self._batcher: Batcher[_Consumption, _Result] = Batcher(self._consume_batch, BATCH)

    async def consume(self, windows: Sequence[Window], request_id: str) -> tuple[int, int] | None:
        """Count a request once in each window; repeats of the same id do not count.

        If one of the windows is full, count it in none, and return the index of that window and the milliseconds until
        it has space.
        """
        full, wait = await self._batcher.submit(_Consumption(windows, request_id))
        return (full - 1, wait) if full else None

    async def _consume_batch(self, batch: Sequence[_Consumption]) -> Sequence[_Result]:
        return await self._redis.call(lambda: self._send(batch)) or [(0, 0)] * len(batch)

    async def _send(self, batch: Sequence[_Consumption]) -> list[_Result]:
        async with self._redis.client.pipeline(transaction=False) as pipeline:
            for consumption in batch:
                names = [window.name for window in consumption.windows]
                limits = [value for window in consumption.windows for value in (window.amount, window.period)]
                pipeline.eval(_CONSUME, len(names), *names, consumption.request_id, *limits)
            return [(int(full), int(wait)) for full, wait in await pipeline.execute()]
