"""What a careful team would build without an event log and an inbox: commit, then `task.delay()`; for comparison only.

`python -m bench.plain_celery api --port 8001`, `… worker`. The endpoint stores a message once for each idempotency
key, commits, and calls Celery; a repeated request calls Celery again. The task, acknowledged late and retried with
backoff, makes the notification (unique by message), sends the email and records that. Celery's options are those of
the product.
"""

import argparse
import asyncio
import os
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import uvicorn
from celery import Celery
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from shared.broker.celery_app import EVENTS_QUEUE, create_celery

TABLES = """
    create table conversations (id uuid primary key default uuidv7(), key text unique);
    create table messages (
        id uuid primary key default uuidv7(), conversation_id uuid references conversations (id), side text,
        body text, key text unique
    );
    create table notifications (message_id uuid primary key, mailed_at timestamptz);
"""
_STORE = """
    insert into messages (conversation_id, side, body, key) values ($1, $2, $3, $4)
    on conflict (key) do update set key = excluded.key returning id
"""
_OPEN = "insert into conversations (key) values ($1) on conflict (key) do update set key = excluded.key returning id"

Key = Annotated[str, Header(alias="Idempotency-Key")]
celery: Celery = create_celery(os.environ.get("PLAIN_BROKER_URL", "redis://127.0.0.1"), client="plain")
# How long the tasks of a killed worker stay hidden: the product's own 16 minutes would only lengthen the run.
celery.conf.broker_transport_options = {**celery.conf.broker_transport_options, "visibility_timeout": 60}


class Message(BaseModel):
    """The body of a request."""

    body: str
    subject: str = ""


@celery.task(
    name="plain.notify",
    queue=EVENTS_QUEUE,
    autoretry_for=(Exception,),
    retry_backoff=True,
    retry_backoff_max=30,
    max_retries=None,
)
def notify(message_id: str, body: str) -> None:
    """Make the notification and send the email, unless that was done."""
    asyncio.run(_notify(UUID(message_id), body))


async def _notify(message_id: UUID, body: str) -> None:
    connection = await asyncpg.connect(os.environ["PLAIN_DATABASE_URL"], timeout=5)
    try:
        await connection.execute(
            "insert into notifications (message_id) values ($1) on conflict do nothing", message_id
        )
        if await connection.fetchval("select mailed_at from notifications where message_id = $1", message_id):
            return
        _send(message_id, body)
        await connection.execute("update notifications set mailed_at = now() where message_id = $1", message_id)
    finally:
        await connection.close(timeout=5)


def _send(message_id: UUID, body: str) -> None:
    email = EmailMessage()
    email["From"], email["To"], email["Subject"] = "support@store.test", "anna@customer.test", "A new message"
    email["Message-ID"] = f"<{message_id}@store.test>"
    email.set_content(body)
    server = urlsplit(os.environ["PLAIN_SMTP_URL"])
    with smtplib.SMTP(server.hostname or "", server.port or 25, timeout=30) as smtp:
        smtp.send_message(email)


def create_app() -> FastAPI:
    """Build the API: open a conversation, post to it from either side."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = asyncpg.create_pool(os.environ["PLAIN_DATABASE_URL"], min_size=0, timeout=5, command_timeout=10)
        async with pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.exception_handler(OSError)
    @app.exception_handler(asyncpg.PostgresError)
    @app.exception_handler(asyncpg.InterfaceError)
    @app.exception_handler(OperationalError)
    async def unavailable(_: Any, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "try again"}, 503)

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        return PlainTextResponse(str(await app.state.pool.fetchval("select 'ready'")))

    @app.post("/api/v1/conversations", status_code=201)
    async def open_conversation(message: Message, key: Key) -> dict[str, Any]:
        conversation_id = await app.state.pool.fetchval(_OPEN, key)
        message_id = await app.state.pool.fetchval(_STORE, conversation_id, "customer", message.body, key)
        return {"id": str(conversation_id), "last_message": {"id": str(message_id)}}

    @app.post("/api/v1/conversations/{conversation}/messages", status_code=201)
    async def write(conversation: UUID, message: Message, key: Key) -> dict[str, str]:
        return {"id": str(await app.state.pool.fetchval(_STORE, conversation, "customer", message.body, key))}

    @app.post("/api/v1/admin/conversations/{conversation}/messages", status_code=201)
    async def answer(conversation: UUID, message: Message, key: Key) -> dict[str, str]:
        message_id = await app.state.pool.fetchval(_STORE, conversation, "admin", message.body, key)
        if message_id is None:
            raise HTTPException(404)
        await asyncio.to_thread(notify.delay, str(message_id), message.body)
        return {"id": str(message_id)}

    return app


def main() -> None:
    """Run one of the processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("process", choices=["api", "worker"])
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args()
    match arguments.process:
        case "api":
            uvicorn.run(create_app(), port=arguments.port, log_level="warning", access_log=False)
        case _:
            name = f"--hostname=plain-{arguments.port}@%h"
            celery.worker_main(["worker", "--concurrency=4", f"--queues={EVENTS_QUEUE}", name, "--loglevel=WARNING"])


if __name__ == "__main__":
    main()
