"""Upgrade a running system from an earlier version to this one, under load: `python -m tests.system.upgrade`, FROM=ref.

FROM is the latest release by default: the latest tag, or else the commit that added the latest release to the
changelog. The old version gets a checkout and an environment of its own. Its processes run on the old schema, then on
the new one while it is migrated, then side by side with new ones that replace them kind by kind. No request may fail,
and every reply must reach its notification and its email.
"""

import asyncio
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from deploy.local.processes import Child
from tests.helpers.smtp_server import smtp_server
from tests.helpers.waiting import eventually
from tests.system.helpers.cluster import DATABASES
from tests.system.helpers.processes import at_once
from tests.system.helpers.product import CHATS, PROCESSES, Product, bare_product, headers_of
from tests.system.test_faults import drained

HERE = Path(__file__).parents[2]
UV = str(HERE / ".venv/bin/uv")
SIDE_BY_SIDE = 5.0  # seconds that old and new code run together, at each step
PAUSE = 0.05  # seconds between the requests of a user


class Load:
    """Users who write and read all the time; `copies` are the processes that serve them, as a proxy would know."""

    def __init__(self, product: Product) -> None:
        self.replies: list[str] = []
        self.answers: Counter[int] = Counter()
        self._copies = {"api": ["api"], "notifications-api": ["notifications-api"]}
        self._ports = product.ports
        self._under_way: Counter[str] = Counter()
        self._turns = 0

    async def move(self, leaving: str, staying: str) -> None:
        """Send no more requests to a copy, but to another one; return when none is under way."""
        copies = self._copies.get(staying.removesuffix("-2"))
        if copies is not None:
            copies[:] = [staying]
            await eventually(lambda: not self._under_way[leaving])

    async def run(self) -> None:
        """Write and read until cancelled."""
        async with httpx2.AsyncClient(timeout=20, limits=httpx2.Limits(keepalive_expiry=2)) as client:
            created = await self._call(
                client, "POST", "anna", "/conversations", {"subject": "Parcel", "body": "Hello?"}
            )
            path = f"/conversations/{created['id']}"
            while True:
                reply = await self._call(client, "POST", "sam", f"/admin{path}/messages", {"body": "It comes."})
                self.replies.append(reply["id"])
                await self._call(client, "GET", "anna", "/unread")
                await self._call(client, "GET", "anna", f"{path}/messages")
                await self._call(client, "POST", "anna", f"{path}/messages", {"body": "Thank you."})
                await self._call(client, "GET", "sam", "/admin/conversations")
                await self._call(client, "GET", "anna", "/notifications")

    async def _call(
        self, client: httpx2.AsyncClient, method: str, user: str, path: str, body: dict[str, str] | None = None
    ) -> Any:
        copies = self._copies["notifications-api" if path.startswith("/notifications") else "api"]
        self._turns += 1
        copy = copies[self._turns % len(copies)]
        headers = headers_of(user, "admin" if user == "sam" else "customer")
        self._under_way[copy] += 1
        try:
            url = f"http://127.0.0.1:{self._ports[copy]}/api/v1{path}"
            answer = await client.request(method, url, headers=headers, json=body)
        finally:
            self._under_way[copy] -= 1
        self.answers[answer.status_code] += 1
        assert answer.is_success, f"{method} {path} at {copy}: {answer.status_code} {answer.text}"
        await asyncio.sleep(PAUSE)
        return answer.json()


async def upgrade() -> str:
    """Upgrade, and return what was seen. Raises at the first promise that does not hold."""
    revision = os.environ.get("FROM") or _latest_release()
    with tempfile.TemporaryDirectory() as name, _checkout(Path(name) / "old", revision) as old:
        await asyncio.to_thread(_install, old)
        await asyncio.to_thread((Path(name) / "product").mkdir)
        async with _old_system(Path(name) / "product", [str(old / ".venv/bin/chats")]) as (product, kinds):
            before, load = await _versions(product), Load(product)
            async with asyncio.TaskGroup() as group:
                users = [group.create_task(load.run()) for _ in range(4)]
                await asyncio.sleep(SIDE_BY_SIDE)
                product.command = CHATS
                await product.migrate()
                await asyncio.sleep(SIDE_BY_SIDE)
                for kind in kinds:
                    await _replace(product, load, kind)
                await product.start(*(kind for kind in PROCESSES if kind not in kinds))
                await asyncio.sleep(SIDE_BY_SIDE)
                for user in users:
                    user.cancel()
            await drained(product, load.replies)
            await eventually(lambda: _is_well(product), 60)
            after = await _versions(product)
    assert before != after, f"there was nothing to migrate from {before}"
    return (
        f"from {_git('log', '-1', '--format=%h', revision)}, schemas {before} to {after}, {', '.join(kinds)} replaced: "
        f"answers {dict(load.answers)}; {len(load.replies)} replies, each with one notification and in an email"
    )


async def _replace(product: Product, load: Load, kind: str) -> None:
    """Replace an old process: a second copy, of the new code, takes over while the first one is replaced."""
    second = f"{kind}-2"
    await product.start(second)
    await asyncio.sleep(SIDE_BY_SIDE)
    await load.move(kind, second)
    await product.stop(kind)
    await product.start(kind)
    await load.move(second, kind)
    await product.stop(second)


@asynccontextmanager
async def _old_system(directory: Path, command: list[str]) -> AsyncIterator[tuple[Product, list[str]]]:
    """Run the old version on its own schema; yield it, and which of today's processes it has."""
    async with smtp_server() as mail_server:
        settings = {"CHATS_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}", "CHATS_EMAIL_DELAY_SECONDS": "1"}
        async with bare_product(directory, **settings) as product:
            product.command = command
            await product.start("postgres", "broker")
            await product.create_databases()
            owners = {f"CHATS_{name.upper()}_OWNER_URL": url for name, url in product.owner_urls.items()}
            await _run(product, [*command, "migrate"], owners)
            commands = set((await _run(product, [*command, "--help"], {})).split())
            kinds = [kind for kind in PROCESSES if kind in commands]
            await product.start(*kinds)
            yield product, kinds


async def _run(product: Product, command: list[str], more: dict[str, str]) -> str:
    log = product.directory / "old.output"
    child = Child(name="old", command=command, log=log, ready=at_once, environment=product.environment | more)
    process = await product.spawn(child)
    code = await process.wait()
    assert code == 0, log.read_text()
    return log.read_text()


async def _is_well(product: Product) -> bool:
    code, output = await product.chats("status")
    assert code == 0, output
    return True


async def _versions(product: Product) -> list[str]:
    versions = []
    for name in DATABASES:
        connection = await asyncpg.connect(product.owner_urls[name])
        versions.append(str(await connection.fetchval("select version_num from alembic_version")))
        await connection.close()
    return versions


def _latest_release() -> str:
    if tags := _git("tag", "--list", "v*", "--sort=-version:refname", "--merged"):
        return tags.split()[0]
    release = re.search(r"^## \[\d+\.\d+\.\d+\]", (HERE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert release is not None, "CHANGELOG.md names no release: set FROM"
    return _git("log", "--format=%h", f"-S{release[0]}", "--", "CHANGELOG.md").split()[-1]


@contextmanager
def _checkout(directory: Path, revision: str) -> Iterator[Path]:
    _git("worktree", "add", "--detach", str(directory), revision)
    try:
        yield directory
    finally:
        _git("worktree", "remove", "--force", str(directory))


def _install(checkout: Path) -> None:
    install = [UV, "pip", "install", "--quiet", "--python", ".venv"]
    commands: tuple[list[str], ...] = (
        [UV, "venv", "--quiet", ".venv"],
        [*install, "--require-hashes", "--requirement", "requirements.lock"],
        [*install, "--no-deps", "."],
    )
    for command in commands:
        subprocess.run(command, cwd=checkout, check=True)  # noqa: S603 - our own lock file


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603, S607 - git


if __name__ == "__main__":
    print(asyncio.run(upgrade()))  # noqa: T201 - a command
