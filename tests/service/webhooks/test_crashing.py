"""A process that sends webhooks is killed at any of its steps: nothing is lost, and conversations stay in order."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from tests.helpers.webhook_receiver import Answer
from tests.service.helpers.callers import Caller
from tests.service.webhooks.conftest import Hooks

STEPS = ("webhooks-read", "webhooks-logged", "webhook-sent", "webhooks-recorded", "webhooks-done")


@pytest.fixture
async def dying(databases: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service.webhooks.dying", databases["conversations"]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


async def run(process: asyncio.subprocess.Process, line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n".encode())
    return (await process.stdout.readline()).decode().strip()


async def test_a_kill_at_any_step_loses_nothing_and_keeps_the_order(
    hooks: Hooks, dying: asyncio.subprocess.Process, anna: Caller
) -> None:
    await hooks.create(["message.posted"])
    conversations = [(await anna.open(body="1"))["id"] for _ in range(3)]
    posted = 1
    turn = 0

    def answer(_: object) -> Answer:
        nonlocal turn
        turn += 1
        return Answer(503 if turn % 3 == 0 else 204)

    hooks.receiver.answer = answer
    for step in STEPS:
        for times in (1, 2) if step in {"webhook-sent", "webhooks-recorded"} else (1,):
            for _ in range(2):
                posted += 1
                for conversation in conversations:
                    await anna.post(conversation, str(posted))
            await hooks.number()
            assert await run(dying, f"{step} {times}") == "killed", step
            # Its lease would end later.
            await hooks.execute("update webhook_progress set held_until = clock_timestamp()")
            assert await run(dying, "none") == "ended"
    numbers = defaultdict(list)
    for request in hooks.receiver.accepted:
        numbers[request.data["conversation_id"]].append(request.data["message"]["number"])
    assert numbers.keys() == set(conversations)
    repeated = 0
    for arrived in numbers.values():
        expected = 1
        for number in arrived:
            assert number in {expected, expected - 1}, arrived  # only the last one may come twice
            repeated += number != expected
            expected = max(expected, number + 1)
        assert expected == posted + 1
    assert 1 <= repeated <= 3 * 7, "a kill before the outcome is recorded repeats what was under way"
    assert await hooks.rows("select distinct state from webhook_deliveries") == [("delivered",)]
