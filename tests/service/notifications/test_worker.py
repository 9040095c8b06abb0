"""How a worker ends after Celery gives up, which Celery does for temporary and permanent faults alike."""

import asyncio
import os
import sys
from typing import Any

import pytest

from services.notifications.celery_runner import CeleryRunner
from services.notifications.worker import run_worker
from shared.broker.status import Fault, Reason
from shared.settings import SettingsError
from tests.service.helpers.event_factory import email_settings


async def end_with(fault: Fault, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a worker whose Celery ends at once with this fault."""

    def run(self: CeleryRunner, *_: Any) -> int:
        self.refusal = fault
        return 1

    monkeypatch.setattr(CeleryRunner, "run", run)
    settings = email_settings(databases["notifications"], broker_url="redis://127.0.0.1:1/0")
    await asyncio.to_thread(run_worker, settings, "127.0.0.1", 0, 1, None)


async def test_a_worker_that_lost_its_connection_restarts_itself(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):  # noqa: N818 - not an error
        pass

    def begin(*arguments: Any) -> None:
        raise Begun(*arguments)

    monkeypatch.setattr(os, "execv", begin)
    with pytest.raises(Begun) as begun:
        await end_with(Fault(Reason.UNREACHABLE, "the connection broke"), databases, monkeypatch)
    assert begun.value.args == (sys.executable, [sys.executable, *sys.orig_argv[1:]])


async def test_a_worker_that_the_broker_rejects_ends(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="the password"):
        await end_with(Fault(Reason.REFUSED, "the broker refuses the password"), databases, monkeypatch)
