"""Publishing hints in one attempt, within the limits of the queues, and with reports of the broker's faults."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from prometheus_client import generate_latest
from redis import Redis
from structlog.testing import capture_logs

from shared.broker.celery_app import EMAILS_QUEUE, EVENTS_QUEUE, create_celery
from shared.broker.publisher import EMAILS_LIMIT, EVENTS_LIMIT, UNCOUNTED_TASKS, BrokerState, Publisher
from shared.broker.status import Fault, Reason
from tests.helpers.amqp_peer import amqp_peer
from tests.service.helpers.event_factory import posted
from tests.service.helpers.valkey_process import Valkey

QUEUE = f"chats:{EVENTS_QUEUE}"


@pytest.fixture
def publisher(valkey: Valkey) -> Iterator[Publisher]:
    """A publisher that tries again at once, where the product waits for some seconds."""
    publisher = Publisher(create_celery(valkey.url, client="tests"), retry=0)
    yield publisher
    publisher.close()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    """The broker as an operator sees it."""
    with Redis.from_url(valkey.url) as client:
        yield client


def reason_of(publisher: Publisher) -> Reason | None:
    publisher.probe()
    return publisher.state.fault and publisher.state.fault.reason


def test_a_full_queue_accepts_no_hints_until_workers_make_room(publisher: Publisher, redis: Redis) -> None:
    redis.rpush(QUEUE, *["waiting"] * (EVENTS_LIMIT - 2))
    events = [posted(uuid4(), number, body="x" * 10_000) for number in range(1, 31)]
    published = publisher.publish_events(events)
    assert 0 < len(published) < len(events)
    assert redis.llen(QUEUE) == EVENTS_LIMIT
    assert publisher.publish_events(events) == []
    assert redis.llen(QUEUE) == EVENTS_LIMIT
    assert publisher.state.readiness_details() == {
        "broker": f"{EVENTS_LIMIT} tasks wait in {EVENTS_QUEUE}: are workers running that consume it?"
    }
    redis.delete(QUEUE)
    assert publisher.publish_events(events) == events
    assert publisher.state.readiness_details() == {"broker": "usable"}


def test_a_queue_that_others_fill_gets_few_tasks_too_many(publisher: Publisher, redis: Redis) -> None:
    publisher.publish_events([posted(uuid4(), 1)])
    redis.rpush(QUEUE, *["waiting"] * EVENTS_LIMIT)
    published = [publisher.publish_events([posted(uuid4(), 1)]) for _ in range(UNCOUNTED_TASKS + 5)]
    assert published[-1] == []
    assert redis.llen(QUEUE) <= EVENTS_LIMIT + UNCOUNTED_TASKS
    assert publisher.state.fault is not None
    assert publisher.state.fault.reason is Reason.QUEUE_FULL


def test_a_full_queue_of_the_largest_messages_stays_far_below_the_brokers_memory(
    publisher: Publisher, redis: Redis
) -> None:
    publisher.publish_events([posted(uuid4(), number, body="\N{PACKAGE}" * 10_000) for number in range(1, 6)])
    largest = max(len(task) for task in redis.lrange(QUEUE, 0, -1))
    assert largest * EVENTS_LIMIT < 0.5 * int(redis.config_get("maxmemory")["maxmemory"] or 0)


def test_short_events_share_one_task(publisher: Publisher, redis: Redis) -> None:
    publisher.publish_events([posted(uuid4(), number) for number in range(1, 41)])
    assert redis.llen(QUEUE) == 1


def test_few_email_hints_are_queued_when_no_worker_takes_them(publisher: Publisher, redis: Redis) -> None:
    assert [publisher.hint_due_emails() for _ in range(EMAILS_LIMIT + 3)].count(True) == EMAILS_LIMIT
    assert redis.llen(f"chats:{EMAILS_QUEUE}") == EMAILS_LIMIT


def test_a_broker_out_of_memory_is_reported_and_used_again_later(publisher: Publisher, redis: Redis) -> None:
    assert reason_of(publisher) is None
    redis.config_set("maxmemory", "1")
    assert publisher.publish_events([posted(uuid4(), 1, body="Dear Anna")]) == []
    assert publisher.state.fault is not None
    assert publisher.state.fault.reason == reason_of(publisher) == Reason.OUT_OF_SPACE
    assert "Anna" not in publisher.state.fault.detail
    assert 'chats_broker_fault{reason="out_of_space",role="publisher"} 1.0' in generate_latest().decode()
    redis.config_set("maxmemory", "100mb")
    assert len(publisher.publish_events([posted(uuid4(), 1)])) == 1
    shown = generate_latest().decode()
    assert 'chats_broker_fault{reason="out_of_space",role="publisher"} 0.0' in shown
    assert 'chats_broker_usable{role="publisher"} 1.0' in shown


def test_a_demoted_broker_is_reported_and_used_again_after_promotion(publisher: Publisher, redis: Redis) -> None:
    assert reason_of(publisher) is None
    redis.slaveof("127.0.0.1", 1)
    assert reason_of(publisher) == Reason.READ_ONLY
    redis.slaveof()
    assert reason_of(publisher) is None


def test_a_user_without_permission_and_a_wrong_password_are_reported(publisher: Publisher, redis: Redis) -> None:
    redis.acl_setuser("default", enabled=True, commands=["-llen"])
    assert reason_of(publisher) == Reason.REFUSED
    redis.acl_setuser("default", enabled=True, commands=["+llen"], passwords=["+another", "-test"])
    redis.client_kill_filter(_type="normal", skipme=True)
    assert reason_of(publisher) == Reason.REFUSED
    assert publisher.state.fault is not None
    assert "password" in publisher.state.fault.detail


async def test_a_restarted_broker_is_used_again(publisher: Publisher, valkey: Valkey) -> None:
    await valkey.kill()
    assert await asyncio.to_thread(reason_of, publisher) == Reason.UNREACHABLE
    await valkey.start()
    assert await asyncio.to_thread(reason_of, publisher) is None


async def test_after_a_failure_the_broker_is_not_called_for_a_while_and_the_log_says_so_once() -> None:
    async with amqp_peer("login") as peer:
        publisher = Publisher(create_celery(f"amqp://user:hidden@127.0.0.1:{peer.port}//", client="tests"))
        with capture_logs() as lines:
            for _ in range(100):
                assert await asyncio.to_thread(publisher.publish_events, [posted(uuid4(), 1)]) == []
    assert peer.connections == 1
    [line] = lines
    assert "refuses the user or the password" in line["reason"]
    assert "hidden" not in str(line)


@pytest.mark.parametrize(
    ("refuses", "reason"),
    [("login", Reason.REFUSED), ("vhost", Reason.REFUSED), ("queue", Reason.QUEUE_MISMATCH), (None, None)],
)
async def test_rabbitmqs_refusals_are_distinguished(refuses: str | None, reason: Reason | None) -> None:
    async with amqp_peer(refuses) as peer:
        publisher = Publisher(create_celery(f"amqp://127.0.0.1:{peer.port}//", client="tests"))
        assert await asyncio.to_thread(reason_of, publisher) == reason
        await asyncio.to_thread(publisher.close)


async def test_a_rabbitmq_without_memory_is_probed_over_one_connection_until_it_recovers() -> None:
    async with amqp_peer("messages") as peer:
        publisher = Publisher(create_celery(f"amqp://127.0.0.1:{peer.port}//", client="tests"), retry=0)
        for _ in range(3):
            assert await asyncio.to_thread(reason_of, publisher) == Reason.OUT_OF_SPACE
        assert peer.connections == 1  # RabbitMQ would keep closed connections while it blocks them
        peer.recover()
        assert await asyncio.to_thread(reason_of, publisher) is None
        await asyncio.to_thread(publisher.close)


def test_a_consumer_that_has_not_connected_yet_is_exported_as_unusable() -> None:
    state = BrokerState("consumer", fault=Fault(Reason.STARTING, "not connected yet"))
    assert 'chats_broker_usable{role="consumer"} 0.0' in generate_latest().decode()
    state.record(None)
    shown = generate_latest().decode()
    assert 'chats_broker_usable{role="consumer"} 1.0' in shown
    assert 'chats_broker_fault{reason="starting",role="consumer"} 0.0' in shown
