"""The product's processes, each running until there is nothing left to do, with the real code in a forked process.

They are forked from a process that has run all code once: that takes milliseconds instead of an interpreter's start.
"""

import asyncio
import gc
import logging
import multiprocessing
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx2
import kombu.pools
import structlog
import uvloop
from celery import Celery, signals
from fastapi import FastAPI

from services.conversations import relay as relay_process
from services.conversations.app import create_app
from services.conversations.emails import feed_client as email_feed
from services.conversations.emails import follower
from services.conversations.settings import ApiSettings
from services.notifications import sweeper
from services.notifications.app import create_app as create_notifications_app
from services.notifications.delivery import claiming as mail_claims
from services.notifications.delivery import sender
from services.notifications.settings import ApiSettings as NotificationsSettings
from services.notifications.tasks import register_tasks
from shared.auth.tokens import issue_token
from shared.broker.celery_app import EVENTS_QUEUE, SEND_EMAILS, create_celery
from shared.broker.publisher import Publisher
from shared.database.engine import create_engine
from shared.database.transactions import create_sessions
from tests.service.helpers.connected import connect
from tests.system.crash import replies
from tests.system.crash.points import Fuse, Point
from tests.system.crash.scenario import MORE_POSTS, POSTS, WITHDRAWALS, Step, claims
from tests.system.crash.world import SECRET, Outside, World

FILES_WRITER = "inbound"
ROUNDS = 20  # until everything must be finished
STUCK = 120.0  # seconds; no process takes this long
FORKS = multiprocessing.get_context("fork")

Answers = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One process: its actor, the point at which it dies if any, and the responses so far."""

    actor: str
    doomed: Point | None
    answers: Answers


Report = Callable[[tuple[str, Any]], None]


def serve(world: World, runs: Connection) -> None:
    """Fork a process for each requested run. Almost all code runs once before the first fork.

    A process reports over the same connection; the last report is how it ended.
    """
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # Small batches, so that there is always a second one; one connection, so that runs are alike.
    mail_claims.BATCH, sweeper.PAGE, email_feed.PAGE = 2, 16, 2
    answers: Answers = {}
    for name, (actor, _) in ACTORS.items():
        if name == FILES_WRITER:
            continue  # the threads of its file store would not survive a fork
        actor(world, Fuse(), answers, lambda _: None)
    kombu.pools.reset()
    gc.collect()
    gc.freeze()
    runs.send(("ready", None))
    while (run := _next(runs)) is not None:
        process = FORKS.Process(target=_act, args=(world, run, runs.send))
        process.start()
        process.join(STUCK)
        exitcode = process.exitcode  # None when it is stuck
        process.kill()
        process.join()
        runs.send(("ended", exitcode))


def _next(runs: Connection) -> Run | None:
    try:
        run: Run = runs.recv()
    except EOFError:  # the parent has gone
        return None
    return run


def _act(world: World, run: Run, report: Report) -> None:
    """Run one process; report the responses, the points reached, and a failure."""
    fuse = Fuse(run.doomed)
    actor, services = ACTORS[run.actor]
    fuse.light({world.databases[service] for service in services})
    try:
        actor(world, fuse, run.answers, report)
    except BaseException:  # noqa: BLE001 - it is reported
        report(("failed", traceback.format_exc()))
    else:
        report(("reached", dict(fuse.reached)))


async def _write(steps: tuple[Step, ...], world: World, fuse: Fuse, answers: Answers, report: Report) -> None:
    """The API and its clients, which repeat a request with the same key after a missing response."""
    async with _api(world) as client:
        for step in steps:
            if step.name in answers:
                continue
            fuse.work = step.name.partition("-")[0]
            token = issue_token(_app(world.files).state.settings, claims(step.caller), timedelta(hours=1))
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": step.key or step.name}
            path = step.path.format_map({name: answer.get("id") for name, answer in answers.items()})
            answer = await client.request(step.method, path, json=step.body, headers=headers)
            assert answer.status_code in step.statuses, f"{step.name}: {answer.status_code} {answer.text}"
            answers[step.name] = answer.json() if answer.content and answer.is_success else {}
            report(("answered", {step.name: answers[step.name]}))


@cache
def _app(files: str) -> FastAPI:
    """Build the application once; each process gives it new database sessions."""
    settings = ApiSettings(
        conversations_database_url="postgresql://",
        auth_secret=[SECRET],
        feed_secret=SECRET,
        inbound_secret=SECRET,
        files_url=Path(files).as_uri(),
    )
    return create_app(settings)


@asynccontextmanager
async def _api(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    engine = create_engine(world.conversations_url, application="crash-api")
    app = _app(world.files)
    connect(app, create_sessions(engine))
    transport = httpx2.ASGITransport(app=app)
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://chats.test", headers=headers) as client:
        yield client
    await engine.dispose()


async def _relay(world: World, fuse: Fuse, *_: Any) -> None:
    """The relay, until all events are numbered."""
    fuse.work = "relay"
    engine = create_engine(world.conversations_url, application="crash-relay")
    hints = relay_process.TaskPublisher(Publisher(create_celery(world.broker_url, client="crash-relay")))
    wakeup, stop = relay_process._Wakeup(), asyncio.Event()  # noqa: SLF001 - part of it
    work = relay_process._number(create_sessions(engine), hints.publish, lambda _: None, wakeup, stop)  # noqa: SLF001 - part of it
    numbering = asyncio.create_task(work)
    outside = Outside(world)
    unnumbered = "select exists (select from events where position is null)"
    while await outside.value(world.conversations_url, unnumbered):  # noqa: ASYNC110 - the database gives no signal
        await asyncio.sleep(0.005)
    stop.set()
    await numbering
    await asyncio.to_thread(hints.close, 5)
    await outside.close()
    await engine.dispose()


def _consume(world: World, fuse: Fuse, *_: Any) -> None:
    """A worker, until there are no more events; a dead one's tasks are redelivered, as after the visibility timeout."""
    celery = create_celery(world.broker_url, client="crash-worker")
    register_tasks(celery, world.email_settings)
    with celery.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.qos.visibility_timeout = 0
        channel.qos.restore_visible(num=None)
        queue = celery.amqp.queues[EVENTS_QUEUE](channel)
        while (message := queue.get(accept=["json"])) is not None:
            _obey(celery, message, fuse)


def _obey(celery: Celery, message: Any, fuse: Fuse) -> None:
    """Handle a task as Celery's consumer does."""
    name, task_id = message.headers["task"], message.headers["id"]
    redelivered = " again" if message.delivery_info.get("redelivered") else ""
    fuse.work = name.removeprefix("notifications.") + redelivered
    task: Any = celery.tasks.get(name)
    if task is None:
        message.reject()
        signals.task_unknown.send(sender=None, message=message, exc=None, name=name, id=task_id)
        return
    args, kwargs, _ = message.payload
    task.push_request(id=task_id, delivery_info=message.delivery_info)
    try:
        task.run(*args, **kwargs)
    finally:
        task.pop_request()
    message.ack()


def _send(world: World, fuse: Fuse, *_: Any) -> None:
    """A worker that gets email hints repeatedly, until all emails are finished."""
    celery = create_celery(world.broker_url, client="crash-worker")
    register_tasks(celery, world.email_settings)
    fuse.work = "send_emails"
    task: Any = celery.tasks[SEND_EMAILS]
    outside = Outside(world)
    with asyncio.Runner() as runner:
        for _round in range(ROUNDS):
            task.run()
            if runner.run(outside.mail_is_over()):
                break
            runner.run(outside.pass_time())
        runner.run(outside.close())


async def _catch_up(world: World, fuse: Fuse, *_: Any) -> None:
    """The sweeper's catching up, until its cursor is at the end of the log."""
    fuse.work = "catch_up"
    engine = create_engine(world.notifications_url, application="crash-sweeper")
    sessions = create_sessions(engine)
    outside = Outside(world)
    head = await outside.value(world.conversations_url, "select head from feed")
    async with _api(world) as feed:
        for _round in range(ROUNDS):
            while await sweeper.catch_up(sessions, feed, world.email_settings, min_age=0):
                pass
            if await outside.value(world.notifications_url, "select position from feed_cursor") == head:
                break
            await outside.pass_time()
    await outside.close()
    await engine.dispose()


async def _sweep_mail(world: World, fuse: Fuse, *_: Any) -> None:
    """The sweeper's sending, until all emails are finished."""
    fuse.work = "drain"
    engine = create_engine(world.notifications_url, application="crash-sweeper")
    outside = Outside(world)
    for _round in range(ROUNDS):
        await sender.drain(create_sessions(engine), world.email_settings, asyncio.Event(), overdue=sweeper.EMAIL_AGE)
        if await outside.mail_is_over():
            break
        await outside.pass_time()
    await outside.close()
    await engine.dispose()


async def _follow_emails(world: World, fuse: Fuse, *_: Any) -> None:
    """The jobs' reading of the status of emails, with the API that it reads, until its cursor is at the log's end."""
    fuse.work = "follow_emails"
    engine = create_engine(world.conversations_url, application="crash-jobs")
    async with _notifications_api(world) as feed:
        while (await follower.follow_round(create_sessions(engine), feed)).more:
            pass
    await engine.dispose()


@cache
def _notifications_app() -> FastAPI:
    return create_notifications_app(
        NotificationsSettings(notifications_database_url="postgresql://", auth_secret=[SECRET], feed_secret=SECRET)
    )


@asynccontextmanager
async def _notifications_api(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    engine = create_engine(world.notifications_url, application="crash-notifications-api")
    app = _notifications_app()
    connect(app, create_sessions(engine))
    transport = httpx2.ASGITransport(app=app)
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://chats.test", headers=headers) as client:
        yield client
    await engine.dispose()


async def _settle(*run: Any) -> None:
    """The processes that finish everything without outside help and without the broker."""
    await _relay(*run)
    await _catch_up(*run)
    await _sweep_mail(*run)
    await _follow_emails(*run)
    await _relay(*run)
    await _catch_up(*run)


def _async(work: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    def run(*arguments: Any) -> None:
        async def main() -> None:
            await work(*arguments)

        asyncio.run(main())

    return run


# By name: the function, and the services whose statements and commits are crash points.
ACTORS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "posts": (_async(partial(_write, POSTS)), ("conversations",)),
    "more posts": (_async(partial(_write, MORE_POSTS)), ("conversations",)),
    "withdrawals": (_async(partial(_write, WITHDRAWALS)), ("conversations",)),
    "api": (_async(partial(_write, (*POSTS, *WITHDRAWALS))), ("conversations",)),
    "relay": (_async(_relay), ("conversations",)),
    "worker: events": (_consume, ("notifications",)),
    "worker: mail": (_send, ("notifications",)),
    "sweeper: events": (_async(_catch_up), ("notifications",)),
    "sweeper: mail": (_async(_sweep_mail), ("notifications",)),
    "jobs: emails": (_async(_follow_emails), ("conversations", "notifications")),
    FILES_WRITER: (_async(partial(replies.take_in, _api)), ("conversations", "notifications")),
    "settle": (_async(_settle), ()),
}
