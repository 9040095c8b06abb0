"""Flower while the broker refuses it."""

import logging
import time

import pytest
from flower import events
from structlog.testing import capture_logs
from tornado.ioloop import IOLoop

from deploy import flower_views
from shared.broker.celery_app import create_celery
from tests.helpers.amqp_peer import amqp_peer


async def test_flower_logs_a_broker_that_refuses_it_once_and_tries_again_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with amqp_peer("login") as peer:
        celery = create_celery(f"amqp://user:hidden@127.0.0.1:{peer.port}//", client="tests")
        flower_views.install(celery)
        receiver = events.Events(celery, IOLoop.current(), max_tasks_in_memory=10)
        with capture_logs() as lines:
            for _ in range(3):
                await receiver.on_enable_events()
    [line] = lines
    assert "refuses the user or the password" in line["reason"]

    logger = logging.getLogger(events.__name__)
    logger.error("Failed to capture events: '%s', trying again in %s seconds.", ConnectionRefusedError(), 65536)
    logger.error("Failed to capture events: '%s', trying again in %s seconds.", KeyError("a bug"), 2)
    assert "a bug" in caplog.text
    assert "65536" not in caplog.text

    monkeypatch.setattr(flower_views, "MAX_WAIT", 0.01)
    begun = time.monotonic()
    events.time.sleep(65536)
    assert time.monotonic() - begun < 10
