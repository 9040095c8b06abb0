"""SIGTERM under load: every process ends by itself in time, and its unfinished work is done after a restart."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes
from pathlib import Path
from uuid import uuid4

import httpx2
import psutil
import pytest

from deploy.local.ports import free_ports
from deploy.local.readiness import accepts
from tests.helpers.smtp_server import KEEP_AND_STALL, STALL, SmtpServer
from tests.helpers.sse_client import reading
from tests.helpers.waiting import eventually
from tests.system.helpers.product import PROCESSES, Product, headers_of
from tests.system.test_balancing import running_site
from tests.system.test_faults import drained

WRITERS = 3


@asynccontextmanager
async def under_load(product: Product) -> AsyncIterator[list[str]]:
    """Post messages meanwhile, each in its own conversation and thus its own email; yield the acknowledged ones."""
    messages: list[str] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            key = str(uuid4())
            with suppress(httpx2.HTTPError, KeyError):
                opened = await product.call(
                    "POST", "/api/v1/conversations", key=key, json={"subject": "Where is it?", "body": "Hello?"}
                )
                path = f"/api/v1/admin/conversations/{opened.json()['id']}/messages"
                answer = await product.call("POST", path, "sam", "admin", key=f"{key}-2", json={"body": "Here."})
                messages.append(answer.json()["id"])
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write())
        try:
            yield messages
        finally:
            stop.set()


async def mailed_once(product: Product, server: SmtpServer) -> None:
    """Fail when an email arrived twice without a lost reply as the cause."""
    copies = Counter(str(message_from_bytes(email.content)["Message-ID"]) for email in server.emails)
    uncertain = [
        tried for email in await product.emails() for tried in email["tries"] if tried["outcome"] == "uncertain"
    ]
    assert sum(copies.values()) - len(copies) <= len(uncertain)
    assert max(copies.values()) <= 2


async def states(product: Product) -> set[str]:
    return {email["state"] for email in await product.emails()}


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
async def test_each_process_stops_under_load_and_starts_again(product: Product, mail_server: SmtpServer) -> None:
    async with under_load(product) as messages:
        for name in PROCESSES:
            before = len(messages)
            await eventually(lambda before=before: len(messages) > before + 5)  # type: ignore[misc]
            await product.stop(name)
            await product.launch(name)
    await product.until_ready(*PROCESSES)
    await drained(product, messages)
    await mailed_once(product, mail_server)


@pytest.mark.skipif(
    "EVERY_CASE" not in os.environ, reason="service/delivery/test_stopping shows it in one process; set EVERY_CASE=1"
)
async def test_a_hanging_smtp_server_does_not_prevent_stopping_and_no_email_stays_in_progress(
    product: Product, mail_server: SmtpServer
) -> None:
    await product.stop("worker")
    mail_server.script |= {"rcpt": [STALL], "end": KEEP_AND_STALL}
    async with under_load(product) as messages:
        await eventually(lambda: not mail_server.script["rcpt"], deadline=30)  # the sweeper's email
        before = mail_server.connections
        await product.start("worker")
        await eventually(lambda: mail_server.connections > before + 3, deadline=30)  # more than the sweeper opens
    await asyncio.gather(*(product.stop(name) for name in ("worker", "sweeper")))
    assert "sending" not in {email["state"] for email in await product.emails()}

    mail_server.script.clear()
    await mail_server.hang_up()
    await product.start("worker", "sweeper")
    await drained(product, messages)
    await mailed_once(product, mail_server)


async def test_all_processes_stop_without_the_broker(product: Product, mail_server: SmtpServer) -> None:
    async with under_load(product) as messages:
        await product.kill("broker")
        await eventually(lambda: len(messages) > 5)
        await asyncio.gather(*(product.stop(name) for name in PROCESSES))
    await product.start("broker", *PROCESSES)
    await drained(product, messages)
    await mailed_once(product, mail_server)


@pytest.mark.skipif("EVERY_CASE" not in os.environ, reason="takes half a minute; set EVERY_CASE=1")
async def test_all_processes_stop_while_the_database_does_not_answer(product: Product, mail_server: SmtpServer) -> None:
    async with under_load(product) as messages:
        await eventually(lambda: len(messages) > 5)
        servers = product.family("postgres")
        for process in servers:
            process.suspend()
        try:
            await asyncio.gather(*(product.stop(name) for name in PROCESSES))
        finally:
            for process in servers:
                process.resume()
    await product.start(*PROCESSES)
    await drained(product, messages)
    await mailed_once(product, mail_server)


async def test_a_worker_and_its_clock_end_together_and_are_restarted_as_one(product: Product) -> None:
    clock_of(product).kill()
    await eventually(lambda: product.ended() == ["worker"], deadline=30)
    await product.start("worker")

    worker, clock = product.family("worker")[0], clock_of(product)
    worker.kill()
    await eventually(lambda: not clock.is_running() or clock.status() == psutil.STATUS_ZOMBIE, deadline=30)
    await product.start("worker")


def clock_of(product: Product) -> psutil.Process:
    """Return the worker's clock process, which serves its port."""
    [clock] = [
        process
        for process in product.family("worker")
        if any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == product.ports["worker"]
            for connection in process.net_connections("tcp")
        )
    ]
    return clock


STOPS = """
import asyncio, re, sys, time
from shared.process import ending, running

async def block(stop):
    await stop.wait()
    time.sleep(600)

async def block_in_c(stop):
    await stop.wait()
    re.match(r"(a+)+$", "a" * 40 + "b")

async def wait_in_vain(stop):
    await asyncio.Event().wait()

async def leave_a_thread(stop):
    thread = asyncio.create_task(asyncio.to_thread(time.sleep, 600))
    await stop.wait()

async def main(stop):
    print("up", flush=True)
    await globals()[sys.argv[1]](stop)

ending.SHUTDOWN_DEADLINE, ending.LAST_WORDS, ending.LEAVING, running.GRACE = 2, 1, 0.1, 0.1
running.run_until_signal(main)
"""


@pytest.mark.parametrize(
    ("work", "code", "said", "place"),
    [
        ("block", -signal.SIGALRM, "not stopped in time, ending by SIGALRM", "block ("),
        ("block_in_c", -signal.SIGALRM, "most recent call first", "in block_in_c"),
        ("wait_in_vain", 0, "work cancelled, it did not end in time", "wait_in_vain ("),
        ("leave_a_thread", 0, "ended without waiting", "_worker ("),
    ],
)
async def test_a_process_that_hangs_while_stopping_ends_by_its_deadline_and_says_where_it_is(
    work: str, code: int, said: str, place: str
) -> None:
    pipe, same = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", STOPS, work, stdout=pipe, stderr=same)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.terminate()
    output = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    assert process.returncode == code, output
    assert said in output
    assert place in output


async def test_a_stopping_api_keeps_serving_until_it_is_out_of_rotation(product: Product) -> None:
    await product.stop("api")
    product.overrides["api"] = {"CHATS_DRAIN_SECONDS": "2"}
    await product.start("api")
    await product.open_conversation()
    url = f"http://127.0.0.1:{product.ports['api']}"
    async with (
        reading(url, headers_of("anna", "customer")) as stream,
        httpx2.AsyncClient(base_url=url, timeout=30) as client,
    ):
        await eventually(lambda: stream.events)
        stopping = asyncio.create_task(product.stop("api"))
        await eventually(lambda: is_not_ready(client))
        answer = await product.call("POST", "/api/v1/conversations", json={"subject": "Late", "body": "Hello?"})
        assert (answer.status_code, answer.headers["connection"]) == (201, "close")
        assert not stream.ended
        await stopping
        await eventually(lambda: stream.ended)
    with pytest.raises(httpx2.ConnectError):
        await product.call("GET", "/api/v1/unread")
    product.overrides.clear()
    await product.start("api")


async def test_a_stream_that_ends_with_its_api_also_closes_its_connection(product: Product) -> None:
    await product.stop("api")
    product.overrides["api"] = {"CHATS_DRAIN_SECONDS": "0.5"}
    await product.start("api")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers_of("anna", "customer").items())
    request = f"GET /api/v1/stream HTTP/1.1\r\nHost: test\r\n{head}\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", product.ports["api"])
    writer.write(request)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    stopping = asyncio.create_task(product.stop("api"))
    await reader.readuntil(b"\r\n0\r\n\r\n")
    answer = b""
    with suppress(ConnectionError):  # a proxy that sends the next request on it goes to another copy
        writer.write(request)
        answer = await reader.readline()
    assert answer == b""
    writer.close()
    await stopping
    product.overrides.clear()
    await product.start("api")


SLOW_API = """
import asyncio, sys, time
from shared.process.running import create_server

async def app(scope, receive, send):
    if scope["type"] == "http":
        await receive()
        time.sleep(0.005)  # meanwhile connections wait to be accepted, and requests to be read
        await asyncio.sleep(0.002)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

create_server(app, "127.0.0.1", int(sys.argv[1]), drain_seconds=0.3).run()
"""


async def test_a_request_on_an_established_connection_is_answered_although_the_socket_closes() -> None:
    (port,) = free_ports([0])
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SLOW_API, str(port))
    await eventually(accepts("127.0.0.1", port), deadline=60)
    answers: list[bytes] = []

    async def ask_until_refused() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
            answers.append(await reader.readline())
            writer.close()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(ask_until_refused())
            await eventually(lambda: len(answers) > 20)
            process.terminate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}


async def is_not_ready(client: httpx2.AsyncClient) -> bool:
    answer = await client.get("/readyz")
    return (answer.status_code, answer.json().get("reason")) == (503, "the process is stopping")


async def test_a_rolling_restart_of_two_copies_fails_no_request(product: Product, tmp_path: Path) -> None:
    async with running_site(tmp_path) as site:
        site.names.addresses = ["127.0.0.2", "127.0.0.3"]
        copies = dict(zip(("api-2", "api-3"), site.names.addresses, strict=True))

        async def start(name: str) -> None:
            product.ports[name] = site.copies[0].port
            product.overrides[name] = {"CHATS_LISTEN_HOST": copies[name], "CHATS_DRAIN_SECONDS": "4"}
            await product.launch(name)
            await eventually(accepts(copies[name], product.ports[name]), deadline=60)

        for name in copies:
            await start(name)
        answers: Counter[int] = Counter()
        failures: list[str] = []
        stop = asyncio.Event()

        async def ask(number: int) -> None:
            headers = headers_of(f"rolling-{number}", "customer")
            while not stop.is_set():
                opened = await site.client.post(
                    "/api/v1/conversations", headers=headers, json={"subject": "Hello", "body": "Hello?"}
                )
                counted = await site.client.get("/api/v1/unread", headers=headers)
                answers.update((opened.status_code, counted.status_code))
                failures.extend(answer.text for answer in (opened, counted) if answer.is_error)

        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(ask(number))
            for name in copies:
                before = answers.total()
                await eventually(lambda before=before: answers.total() > before + 10)  # type: ignore[misc]
                await product.stop(name)
                await start(name)
            stop.set()
        await product.kill(*copies)
    assert not failures
    assert answers.keys() == {200, 201}
