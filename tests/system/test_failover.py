"""A read-only database, one that is not migrated, and a real standby that is promoted under load."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import httpx2
import pytest
from sqlalchemy.engine import make_url

from deploy.local import postgres
from deploy.local.processes import Spawn
from shared.database.errors import NOT_MIGRATED, READ_ONLY
from tests.helpers.smtp_server import SmtpServer
from tests.helpers.waiting import eventually
from tests.system.helpers.cluster import DATABASES
from tests.system.helpers.processes import IMMEDIATE
from tests.system.helpers.product import PROCESSES, Product, running_product

RECOVERY = 20  # seconds, on a busy machine, within which everything writes again after a database accepts writes
DETECTION = 30  # the same within which a process reports a fault of its database
RELOAD = "select pg_reload_conf()"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def standby(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[postgres.Server]:
    """The files of a second server."""
    async with postgres.throwaway_files(tmp_path_factory.mktemp("servers") / "standby", copied=True) as server:
        yield server


@pytest.fixture(scope="module")
async def product(
    tmp_path_factory: pytest.TempPathFactory, fork: Spawn, mail_server: SmtpServer, standby: postgres.Server
) -> AsyncIterator[Product]:
    """The whole product on a primary and its synchronous standby, with both hosts in its settings."""
    directory = tmp_path_factory.mktemp("product")
    settings = {"CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}", "CHATS_EMAIL_DELAY_SECONDS": "1"}
    async with running_product(directory, fork, **settings) as product:
        await copy_of(product.superuser_url, standby)
        copy = replace(standby, password=str(make_url(product.superuser_url).password))
        product.add("standby", lambda: postgres.postgres(copy, directory / "standby.log", postgres.KILLABLE))
        await product.start("standby")
        await as_superuser(product.superuser_url, "alter system set synchronous_standby_names = '*'", RELOAD)
        for setting in (f"CHATS_{name.upper()}_DATABASE_URL" for name in DATABASES):
            url = product.environment[setting]
            server, _, name = url.rpartition("/")
            product.environment[setting] = f"{server},127.0.0.1:{standby.port}/{name}"
        await product.start(*PROCESSES)
        yield product


async def copy_of(url: str, standby: postgres.Server) -> None:
    """Copy a running server as a standby, with pg_basebackup."""
    process = await asyncio.create_subprocess_exec(
        postgres.WHEEL / "pginstall" / "bin" / "pg_basebackup",
        *("--write-recovery-conf", "--checkpoint=fast", f"--pgdata={standby.data}", f"--dbname={url}"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, output = await process.communicate()
    assert process.returncode == 0, output.decode()
    if standby.account is not None:
        for path in (standby.data, *standby.data.rglob("*")):
            shutil.chown(path, standby.account.pw_uid, standby.account.pw_gid)


async def as_superuser(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def readiness(product: Product) -> dict[str, tuple[int, str]]:
    """Return every process's readiness."""
    async with httpx2.AsyncClient(timeout=10) as client:
        answers = [await client.get(f"http://127.0.0.1:{product.ports[name]}/readyz") for name in PROCESSES]
    return {
        name: (answer.status_code, answer.json().get("reason", ""))
        for name, answer in zip(PROCESSES, answers, strict=True)
    }


async def none_ready(product: Product, reason: str) -> bool:
    statuses = await readiness(product)
    assert all(status == 503 and reason in message for status, message in statuses.values()), statuses
    return True


async def all_ready(product: Product) -> bool:
    statuses = await readiness(product)
    assert all(status == 200 for status, _ in statuses.values()), statuses
    return True


async def recorded_once(product: Product, replies: list[str], sub: str = "anna") -> bool:
    found = await product.records(sub)
    assert len(found) == len(set(found)), "a notification twice"
    return set(replies) <= set(found)


async def test_every_process_reports_a_read_only_database_and_works_again_later(
    product: Product,
) -> None:
    conversation = await product.open_conversation()
    replies = [await product.reply(conversation)]
    await as_superuser(product.superuser_url, "alter system set default_transaction_read_only = on", RELOAD)
    await eventually(lambda: none_ready(product, READ_ONLY), deadline=DETECTION)
    for path, role in (
        (f"/api/v1/admin/conversations/{conversation}/messages", "admin"),
        ("/api/v1/notifications/read-all", "customer"),
    ):
        answer = await product.call("POST", path, "sam", role, json={"body": "Not now."})
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text

    await as_superuser(product.superuser_url, "alter system set default_transaction_read_only = off", RELOAD)
    replies.append(await eventually(lambda: product.reply(conversation), deadline=RECOVERY))
    replies += [await product.reply(conversation) for _ in range(20)]
    await eventually(lambda: all_ready(product), deadline=RECOVERY)
    await eventually(lambda: recorded_once(product, replies))


async def test_no_process_is_ready_on_an_older_database_and_all_are_on_a_newer_one(product: Product) -> None:
    for version, reached in (("0001", lambda: none_ready(product, NOT_MIGRATED)), ("9999", lambda: all_ready(product))):
        for url in product.owner_urls.values():
            await as_superuser(url, f"update alembic_version set version_num = '{version}'")  # noqa: S608 - ours
        await eventually(reached, deadline=DETECTION)


async def test_a_promoted_standby_has_lost_and_duplicated_nothing_acknowledged(
    product: Product, standby: postgres.Server
) -> None:
    conversation = await product.open_conversation()
    earlier = await product.open_conversation(subject="Hoodie")
    acknowledged: dict[str, str] = {}
    stop = asyncio.Event()

    async def write() -> None:
        """Post one reply after the other; repeat each with its key until it is acknowledged."""
        while not stop.is_set():
            body = f"Answer {len(acknowledged) + 1}"
            path = f"/api/v1/admin/conversations/{conversation}/messages"
            answer = await product.call("POST", path, "sam", "admin", key=body, json={"body": body})
            assert answer.status_code == 201 or (answer.status_code, "retry-after" in answer.headers) == (503, True)
            if answer.status_code == 201:
                acknowledged[answer.json()["id"]] = body

    async def more_than(count: int) -> bool:
        if writing.done():
            await writing
        return len(acknowledged) > count

    writing = asyncio.create_task(write())
    await eventually(lambda: more_than(20))
    await product.kill("postgres", how=IMMEDIATE)
    await eventually(lambda: none_ready(product, READ_ONLY), deadline=DETECTION)  # only the standby runs

    before = len(acknowledged)
    promoted = make_url(product.superuser_url).set(port=standby.port)
    await as_superuser(promoted.render_as_string(hide_password=False), "select pg_promote()")
    await eventually(lambda: more_than(before), deadline=RECOVERY)
    await eventually(lambda: all_ready(product), deadline=RECOVERY)
    await eventually(lambda: more_than(before + 20))
    stop.set()
    await writing

    path = f"/api/v1/admin/conversations/{conversation}/messages"
    thread = await product.call("GET", path, "sam", "admin", params={"after": "1", "limit": "100"})
    assert {item["id"]: item["body"] for item in thread.json()["items"]} == dict(list(acknowledged.items())[:100])
    await eventually(lambda: recorded_once(product, list(acknowledged)))
    await eventually(lambda: all_mailed(product, conversation, acknowledged))
    await eventually(lambda: finds(product, "hoodie", earlier))  # standbys have no documents of search


async def finds(product: Product, q: str, conversation: str) -> bool:
    answer = await product.call("GET", "/api/v1/admin/conversations", "sam", "admin", params={"q": q})
    return [item["id"] for item in answer.json()["items"]] == [conversation]


async def all_mailed(product: Product, conversation: str, messages: dict[str, str]) -> bool:
    sent = [email for email in await product.emails() if email["state"] == "sent"]
    own = [email for email in sent if email["conversation_id"] == conversation]
    return messages.keys() <= {message_id for email in own for message_id in email["message_ids"]}
