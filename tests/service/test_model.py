"""The product and the model side by side: after every random step their states are equal."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.service.helpers.real_pipeline import RealPipeline, real_pipeline

PLAY = settings(max_examples=settings().max_examples // 2, stateful_step_count=25, database=None)
pytestmark = pytest.mark.long
Pair = tuple[asyncio.Runner, RealPipeline]


class SideBySide(Machine):
    """Takes every step with the product and with the model."""

    runner: asyncio.Runner
    real: RealPipeline

    def __init__(self) -> None:
        super().__init__()
        self.runner.run(self.real.begin_anew())

    def do(self, step: str, *args: Any, **options: Any) -> Any:
        self.pipeline.tick()
        return self.runner.run(self._do(step, *args, **options))

    async def _do(self, step: str, *args: Any, **options: Any) -> Any:
        await self.real.set_clock(self.pipeline.clock.now)
        done = await getattr(self.real, step)(*args, **options)
        seen = await self.real.view()
        assert done == getattr(self.pipeline, step)(*args, **options)
        expected = self.pipeline.view()
        # The due time is the last field of an email, and has jitter.
        dues = [email[-1] for email in seen["mails"]], [email[-1] for email in expected["mails"]]
        for view in (seen, expected):
            view["mails"] = [email[:-1] for email in view["mails"]]
        for part, planned in expected.items():
            assert seen[part] == planned, f"{part}, after {step}"
        for email, due, planned in zip(seen["mail_ids"], *dues, strict=True):
            if due != planned:
                await self.real.settle(email, due, planned)
        return done


@pytest.fixture
def pair(databases: dict[str, str], owner_urls: dict[str, str]) -> Iterator[Pair]:
    """An event loop that the machine runs step by step, and the product on it."""
    with asyncio.Runner() as runner:
        pipeline = real_pipeline({name: owner_urls[name] for name in databases})
        yield runner, runner.run(pipeline.__aenter__())
        runner.run(pipeline.__aexit__(None, None, None))


@pytest.mark.timeout(600)  # a failing example is first shrunk
def test_the_product_and_the_model_agree_after_every_step(pair: Pair) -> None:
    class Here(SideBySide):
        runner, real = pair

    run_state_machine_as_test(Here, settings=PLAY)
