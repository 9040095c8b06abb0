import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(check: Callable[[], Awaitable[T | None]], deadline: float = ...) -> T: ...
@overload
async def eventually(check: Callable[[], T | None], deadline: float = ...) -> T: ...
async def eventually(check: Callable[[], Any], deadline: float = 30.0) -> Any:
    """Return the first true result of `check`; fail after `deadline` seconds. Errors in `check` count as not yet.

    It checks ever less often, down to ten times a second: a check of a process costs the CPU that it waits for.
    """
    loop = asyncio.get_running_loop()
    end, last, pause = loop.time() + deadline, None, 0.02
    while loop.time() < end:
        try:
            result = check()
            found = await result if inspect.isawaitable(result) else result
        except (AssertionError, OSError) as error:
            last = error
        else:
            if found:
                return found
        await asyncio.sleep(pause)
        pause = min(0.1, pause * 1.1)
    raise AssertionError(f"not within {deadline:g} s: {inspect.getsource(check).strip()}") from last
