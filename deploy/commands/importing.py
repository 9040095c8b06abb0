"""Import a file of users and orders, on the conversations database."""

import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import typer

from deploy.commands.operations import run_on
from services.conversations.catalog.ndjson_import import import_lines
from services.conversations.settings import StoreSettings
from shared.database.transactions import SessionFactory
from shared.settings import SettingsError, read_settings
from shared.text import printable

MAX_WARNINGS = 100  # printed
CHUNK = 64 * 1024  # bytes read at once


def import_users_and_orders(name: str) -> bool:
    """Import the users and orders in a file, `-` for standard input. Print rejected lines, warnings and a summary.

    Return True when no line was rejected.
    """
    url = read_settings(StoreSettings).conversations_database_url
    counts: Counter[int] = Counter()
    warnings = 0

    async def work(sessions: SessionFactory) -> None:
        nonlocal warnings
        with _open(name) as file:
            async for result in import_lines(_chunks(file), sessions, detail_budget=math.inf):
                counts[result["status"]] += result.get("lines_omitted", 1)
                printed = warnings
                warnings += len(result.get("warnings", ()))
                for remark in _remarks(result, MAX_WARNINGS - printed):
                    typer.echo(printable(f"line {result['line']}, {result.get('id', 'no id')}: {remark}"), err=True)

    run_on(url, work)
    if warnings > MAX_WARNINGS:
        typer.echo(f"{warnings - MAX_WARNINGS} more warnings.", err=True)
    rejected = counts.total() - counts[HTTPStatus.CREATED] - counts[HTTPStatus.OK]
    typer.echo(f"{counts[HTTPStatus.CREATED]} created, {counts[HTTPStatus.OK]} already existed, {rejected} rejected.")
    return not rejected


def _remarks(result: Mapping[str, Any], max_warnings: int) -> Iterator[str]:
    """Yield why a line was rejected, or its warnings: fields that were left out or replaced."""
    if "code" in result:
        yield result["detail"]
    for warning in result.get("warnings", ())[: max(0, max_warnings)]:
        yield f"warning: {'.'.join(map(str, warning['loc'][1:]))}: {warning['msg']}"


def _open(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise SettingsError(printable(f"cannot read {name}: {error.strerror}")) from None


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
