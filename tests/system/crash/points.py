"""The points at which a process can die: the named failpoints, and before and after every statement and commit."""

import hashlib
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from shared.process import failpoints

ROOT = Path(__file__).parents[3]
APPLICATION = "crash-"  # how the names of the processes' connections begin

_PARAMETERS = re.compile(r"\$\d+(::[\w \[\]]+?)?(?=\W)(, \$\d+(::[\w \[\]]+?)?(?=\W))*")
_ROWS = re.compile(r"\(\?\)(, \(\?\))+")
_FAILPOINT = re.compile(r"^\s+(?:\w+\.)?failpoint\((.*)\)$", re.MULTILINE)
_LITERAL = re.compile(r'"([^"]+)"')
_SUBJECT = re.compile(r"\b(insert into|update|delete from|from) (\w+)")


@dataclass(frozen=True, order=True)
class Point:
    """A point in a process's run: its task, the place in it, and the how-manieth visit."""

    work: str
    place: str
    time: int = 1

    def __str__(self) -> str:
        return f"{self.work}: {self.place}" + (f", time {self.time}" if self.time > 1 else "")


@dataclass
class Fuse:
    """Counts the points that a process reaches, and kills it at a given one."""

    doomed: Point | None = None
    work: str = ""
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)

    def reach(self, place: str) -> None:
        self.reached[self.work, place] += 1
        if self.doomed == Point(self.work, place, self.reached[self.work, place]):
            os.kill(os.getpid(), signal.SIGKILL)

    def light(self, databases: set[str]) -> None:
        """Install hooks for every failpoint, and for every statement and commit in these databases."""
        failpoints.armed = self.reach
        last = ContextVar("last", default="")  # statement of this task: others run between it and its commit

        def watched(url: Any) -> bool:
            return url.database in databases

        @event.listens_for(Engine, "before_cursor_execute")
        def before(connection: Connection, _: Any, statement: str, *__: Any) -> None:
            if watched(connection.engine.url):
                last.set(title(statement))
                self.reach(f"before {last.get()}")

        @event.listens_for(Engine, "after_cursor_execute")
        def after(connection: Connection, _: Any, statement: str, *__: Any) -> None:
            if watched(connection.engine.url):
                self.reach(f"after {title(statement)}")

        @event.listens_for(Engine, "commit")
        def commit(connection: Connection) -> None:
            if watched(connection.engine.url):
                self.reach(f"before the commit of {last.get()}")

        @event.listens_for(Session, "after_commit")
        def committed(session: Session) -> None:
            if last.get() and watched(session.get_bind().engine.url):
                self.reach(f"after the commit of {last.get()}")

    def watch_driver(self) -> None:
        """Install hooks for every statement of a process that runs straight on the driver."""
        for method in ("execute", "fetch", "fetchrow", "fetchval"):
            setattr(asyncpg.Connection, method, self._watching(getattr(asyncpg.Connection, method)))

    def _watching(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watching(connection: Any, query: str, *arguments: Any, **options: Any) -> Any:
            if not connection.get_settings().application_name.startswith(APPLICATION):
                return await method(connection, query, *arguments, **options)
            self.reach(f"before {title(query)}")
            result = await method(connection, query, *arguments, **options)
            self.reach(f"after {title(query)}")
            return result

        return watching


@cache
def title(statement: str) -> str:
    """Name a statement independently of its parameters and their number."""
    flat = _ROWS.sub("(?)", _PARAMETERS.sub("?", " ".join(statement.lower().split()) + " "))
    verb, (_, table) = flat.split(maxsplit=1)[0], (found.groups() if (found := _SUBJECT.search(flat)) else ("", ""))
    digest = hashlib.sha256(flat.encode()).hexdigest()[:4]
    return " ".join(part for part in (verb, table, f"[{digest}]") if part)


def named_places() -> list[str]:
    """Return the names in all calls of `failpoint` in the product. Raise ValueError for one without a literal name."""
    return [
        name for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py") for name in _names(path)
    ]


def _names(path: Path) -> Iterator[str]:
    for argument in _FAILPOINT.findall(path.read_text()):
        if not (name := _LITERAL.fullmatch(argument)):
            raise ValueError(f"a failpoint without a literal name: {path}: {argument}")
        yield name[1]
