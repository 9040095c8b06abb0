"""Check the broker with what the relay and the worker do, and the Redis for rate limits and live events."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from kombu import Connection
from redis.asyncio import Redis

from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.doctor.settings import is_same_server
from services.conversations.rate_limits.failopen_redis import PROBE, TIMEOUT, connect
from services.conversations.realtime.log_notify import APPENDED
from services.conversations.settings import StoreSettings
from shared.broker.celery_app import EVENTS_QUEUE, create_celery
from shared.broker.faults import describe_error
from shared.broker.publisher import Publisher
from shared.broker.status import Reason
from shared.settings import Settings, read_settings, settings_errors

WORKERS: Final = 2.0  # seconds for workers to answer
PINGS: Final = 5
REDIS_CONNECT: Final = 3.0  # seconds
_CLIENT: Final = "chats-doctor"
_SET_REDIS: Final = "Check CHATS_REDIS_URL, and that this server is running."


async def check() -> Sequence[Finding]:
    """Check the broker and the Redis."""
    findings = [note("Broker: not checked, because CHATS_BROKER_URL is not set here.")]
    if os.environ.get("CHATS_BROKER_URL"):
        celery = create_celery(read_settings(Settings).broker_url, client=_CLIENT)
        findings = await asyncio.to_thread(_check_broker, celery)
    elif not os.environ.get("CHATS_REDIS_URL"):
        return findings
    if settings_errors(StoreSettings):
        if os.environ.get("CHATS_REDIS_URL"):
            findings.append(note("Redis: not checked, because the settings of the relay are not complete here."))
    else:
        settings = read_settings(StoreSettings)
        if settings.redis_url is not None:
            is_broker = is_same_server(settings.redis_url, settings.broker_url)
            findings += await _check_redis(settings.redis_url, is_broker=is_broker)
    return findings


def _check_broker(celery: Celery) -> list[Finding]:
    publisher = Publisher(celery, quiet=True)
    publisher.probe()
    publisher.close()
    if (problem := publisher.state.fault) and problem.reason == Reason.QUEUE_FULL:
        return [fault(f"{problem.detail[:1].upper()}{problem.detail[1:]}", "Start a worker, or a second one.")]
    if problem:
        return [fault(f"Broker: {problem.detail}.", "Check CHATS_BROKER_URL, the server, and its user's permissions.")]
    try:
        with celery.connection_for_write() as connection:
            findings = [_carry_message(connection), *_of_memory(connection)]
            _subscribe(connection)
    except Exception as error:  # noqa: BLE001 - kombu raises many types
        advice = "Give the user the permissions in docs/brokers.md."
        return [fault(f"Broker: the relay or a worker could not use it: {describe_error(error).detail}.", advice)]
    return [*findings, _of_workers(celery, publisher.waiting or 0)]


def _carry_message(connection: Connection) -> Finding:
    """Send a message through a queue of its own, and receive and acknowledge it as a worker does."""
    channel: Any = connection.channel()
    name = f"{EVENTS_QUEUE}.doctor.{uuid4()}"
    arguments = {} if connection.transport.driver_type == "redis" else {"x-expires": 60_000}
    channel.queue_declare(queue=name, durable=False, auto_delete=False, arguments=arguments)
    try:
        connection.Producer(channel, auto_declare=False).publish({}, exchange="", routing_key=name, retry=False)
        message = channel.basic_get(name, no_ack=False)
        if message is None:
            return fault("Broker: a message that was sent did not arrive.", "Restart the broker, and look at its log.")
        channel.basic_ack(message.delivery_tag)
    finally:
        channel.queue_delete(queue=name)
    return ok(f"Broker: {_server(connection)} carries messages.")


def _subscribe(connection: Connection) -> None:
    """Subscribe as workers do to commands of Flower. A Redis permits it to a user with this very channel only."""
    if connection.transport.driver_type != "redis":
        return
    channel: Any = connection.channel()
    with channel.conn_or_acquire() as client, client.pubsub() as subscriber:
        subscriber.psubscribe(f"{channel.keyprefix_fanout}celery.pidbox")
        subscriber.parse_response()


def _server(connection: Connection) -> str:
    if connection.transport.driver_type == "redis":
        return "the Redis or Valkey"
    properties: Any = getattr(connection.connection, "server_properties", {})
    return f"RabbitMQ {properties.get('version', '')}".strip()


def _of_memory(connection: Connection) -> Iterator[Finding]:
    """Yield what a Redis does when it is full: with any other policy than `noeviction` it deletes a queue."""
    if connection.transport.driver_type != "redis":
        return
    channel: Any = connection.channel()
    try:
        with channel.conn_or_acquire() as client:
            memory = client.info("memory")
    except Exception:  # noqa: BLE001 - a restricted user may not ask
        yield note("Broker: its user may not call INFO, so the memory limit was not checked.")
        return
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warning(f"Broker: maxmemory-policy is {policy}.", "Set noeviction: a full broker shall refuse tasks.")
    if not memory.get("maxmemory"):
        yield warning("Broker: maxmemory is not set.", "Set it to 256 MiB: the queues take 80 MiB at most.")


def _of_workers(celery: Celery, waiting: int) -> Finding:
    replies = celery.control.ping(timeout=WORKERS)
    if not replies:
        return warning(
            f"Broker: no worker answers, {waiting} tasks wait.",
            "Start `chats worker`. Without one, the sweeper does its work, later.",
        )
    return ok(f"Broker: {len(replies)} worker{'s answer' if len(replies) > 1 else ' answers'}, {waiting} tasks wait.")


async def _check_redis(url: str, *, is_broker: bool) -> list[Finding]:
    try:
        async with asyncio.timeout(REDIS_CONNECT), connect(url) as redis:
            milliseconds = await _use(redis)
            findings = [ok(f"Redis: usable, answers in {milliseconds:.1f} ms.")]
            findings += [] if is_broker else await _of_redis_memory(redis)
    except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors
        detail = describe_error(error).detail.replace("the broker", "it")
        return [fault(f"Redis: {detail}. There are no rate limits, and live pages are slower.", _SET_REDIS)]
    if milliseconds > 1000 * TIMEOUT / 2:
        text = f"Redis: a call takes {milliseconds:.0f} ms, and a rate limit waits {1000 * TIMEOUT:.0f} ms at most."
        findings.append(warning(text, "Move it nearer to the API."))
    return findings


async def _use(redis: Redis) -> float:
    """Do what the API and the relay do; return how long an answer takes, in milliseconds."""
    await redis.set(PROBE, "", px=1000)
    await redis.eval("return redis.call('exists', KEYS[1])", 1, PROBE)
    async with redis.pubsub() as listener:
        await listener.subscribe(APPENDED)
    await redis.publish(APPENDED, 0)  # the relay looks for new events, which it does anyway
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        await redis.ping()
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


async def _of_redis_memory(redis: Redis) -> list[Finding]:
    try:
        memory = await redis.info("memory")
    except Exception:  # noqa: BLE001 - a restricted user may not ask
        return []
    if memory.get("maxmemory") and memory.get("maxmemory_policy") == "noeviction":
        text = "Redis: maxmemory-policy is noeviction: when it is full, there are no rate limits."
        return [warning(text, "Set volatile-lru.")]
    return []
