"""The real service and the model side by side: whatever happens to both, they agree after every step."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.service.helpers.real_pipeline import RealPipeline, real_pipeline

PLAY = settings(stateful_step_count=25, database=None)
pytestmark = pytest.mark.long
Beside = tuple[asyncio.Runner, RealPipeline]


class SideBySide(Machine):
    """Every step is taken by the service and by the model."""

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
        # When a mail is due is the last thing that is said of it, and has jitter.
        dues = [mail[-1] for mail in seen["mails"]], [mail[-1] for mail in expected["mails"]]
        for view in (seen, expected):
            view["mails"] = [mail[:-1] for mail in view["mails"]]
        for part, planned in expected.items():
            assert seen[part] == planned, f"{part}, after {step}"
        for email, due, planned in zip(seen["mail_ids"], *dues, strict=True):
            if due != planned:
                await self.real.settle(email, due, planned)
        return done


@pytest.fixture
def beside(databases: dict[str, str], owner_urls: dict[str, str]) -> Iterator[Beside]:
    """A loop that the machine runs step by step, and the service on it."""
    with asyncio.Runner() as runner:
        pipeline = real_pipeline({name: owner_urls[name] for name in databases})
        yield runner, runner.run(pipeline.__aenter__())
        runner.run(pipeline.__aexit__(None, None, None))


@pytest.mark.timeout(600)  # a game that fails is made as short as it can be first
def test_the_service_and_the_model_agree_after_every_step(beside: Beside) -> None:
    class Here(SideBySide):
        runner, real = beside

    run_state_machine_as_test(Here, settings=PLAY)
