"""The export of a person's data: everything the store may hand to them, in one archive (ADR 0026)."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import httpx2
import structlog

from services.conversations.attachments.file_store import FileStore
from services.conversations.attachments.names import safe_name
from services.conversations.privacy.archive import Archive, Write
from services.conversations.privacy.notifications import Notifications
from services.conversations.privacy.pages import Pages, local_now
from services.conversations.privacy.queries import ExportedConversation, Interrupted, PersonRow, Queries, list_ids
from services.conversations.records import OrderRow
from services.conversations.rules import EntryKind, FileState, Side
from services.conversations.settings import ExportSettings
from shared.api.response_body import write_json
from shared.database.transactions import ConnectionProvider
from shared.problems import NotFound

MAX_EXPORTS: Final = 2  # made by a process at the same time: each takes up to a core
_MOST_BYTES: Final = 64 * 1024  # of a message as JSON or HTML, with its files' names
_SHOWN_KINDS: Final = (EntryKind.STATUS, EntryKind.REMOVAL, EntryKind.POSTED_EMAIL)
_INTERNAL_KINDS: Final = (EntryKind.NOTE, EntryKind.LABELS)
# Characters that Windows does not allow in names, and `%`, which some programs decode in links.
_NOT_IN_FILE_NAMES: Final = str.maketrans(dict.fromkeys('<>:"|?*%', "_"))

Rows = Callable[[], AsyncIterable[Sequence[Any]]]
"""Reads pages of items from their start."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a person's data is, and how it is shown."""

    acquire: ConnectionProvider
    files: FileStore
    notifications: httpx2.AsyncClient | None
    settings: ExportSettings


async def prepare_export(sources: Sources, user_id: str, *, internal: bool) -> "Export":
    """Read what an export begins with; after this, only an outage or a deletion makes it fail.

    With `internal` it contains the notes and labels in the person's conversations. Raises `NotFound`, and
    `NotificationsUnavailable` because without that service's part the export would look whole and not be.
    """
    *merged, user_id = await list_ids(sources.acquire, user_id)  # of a merged id everything is the person's
    queries = Queries(sources.acquire, user_id)
    person = await queries.find_person()
    if person is None:
        raise NotFound("There is no user with this id.")
    if person.deleted_at is not None:
        raise NotFound("This user was deleted. Nothing that remains of them has a name or an address.")
    notifications = Notifications(sources.notifications, [*merged, user_id])
    email_profile = await notifications.read_profile()
    conversations, was_admin = await queries.list_conversations(), await queries.was_ever_admin()
    beginning = Beginning(person, merged, conversations, email_profile, was_admin)
    return Export(sources, beginning, queries, notifications, internal=internal)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is read of a person before the first byte is written. `merged_ids` are the newest of their other ids."""

    person: PersonRow
    merged_ids: Sequence[str]
    conversations: Sequence[ExportedConversation]
    email_profile: Mapping[str, Any]
    was_admin: bool


class Export:
    """An export that is ready to be written."""

    def __init__(
        self, sources: Sources, beginning: Beginning, queries: Queries, notifications: Notifications, *, internal: bool
    ) -> None:
        settings, person = sources.settings, beginning.person
        self._files, self._store_name = sources.files, settings.store_name
        self._person, self._merged_ids, self._conversations = person, beginning.merged_ids, beginning.conversations
        self._email_profile, self._was_admin = beginning.email_profile, beginning.was_admin
        self._queries, self._notifications, self._internal = queries, notifications, internal
        self._pages = Pages(
            [person.locale, settings.locale], [person.zoneinfo, settings.time_zone], settings.store_name
        )
        self._now = local_now(self._pages.zone)
        self._added: set[str] = set()  # ids of files whose bytes are in the archive

    @property
    def file_name(self) -> str:
        """The name of the archive."""
        name = safe_name(self._person.id).translate(_NOT_IN_FILE_NAMES)[:100].lstrip(".")  # a dot would hide the file
        return f"{name or 'export'}-{self._now:%Y-%m-%d}.zip"

    async def write(self, write: Write) -> None:
        """Write the archive. If it fails, what was written is no valid archive.

        Raises `Interrupted`, `NotificationsUnavailable`, `FileStoreError`, and errors of the database and of `write`.
        """
        async with Archive(write, self._now) as archive:
            unsent = [await self._unsent_file(archive, row) for row in await self._queries.unsent_files()]
            await archive.add_text("index.html", self._index(unsent))
            await self._add_profile(archive, unsent)
            await archive.add_text("data/orders.json", _array(self._orders))
            for ordinal, conversation in enumerate(self._conversations, 1):
                await self._add_conversation(archive, f"{ordinal:04}", conversation)
            await self._add_notifications(archive)
            if self._was_admin:
                await self._add_admin_work(archive)
            await self._queries.check_still_there(self._conversations)

    async def _add_profile(self, archive: Archive, unsent: Sequence[Mapping[str, Any]]) -> None:
        sessions = [dict(row) for row in await self._queries.list_sessions()]
        profile = self._person._asdict() | {"merged_ids": self._merged_ids}
        del profile["deleted_at"]
        document = {
            "exported_at": self._now,
            "store": self._store_name,
            "profile": profile,
            "browser_sessions": sessions,
            "emails": self._email_profile,
            "unsent_files": unsent,
        }
        await archive.add_text("data/person.json", _one(write_json(document).decode()))

    async def _index(self, unsent: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
        name = self._person.name or self._person.id
        _ = self._pages.gettext
        yield self._start(_("Data of %(name)s") % {"name": name}, up=None)
        yield self._pages.render(
            "index_start.html",
            person=self._person,
            merged_ids=self._merged_ids,
            conversations=self._conversations,
            now=self._now,
        )
        for start in range(0, len(self._conversations), 100):
            yield self._pages.render(
                "index_conversations.html",
                conversations=[
                    {
                        "path": f"conversations/{ordinal:04}.html",
                        "subject": conversation.subject,
                        "status": conversation.status,
                        "count": conversation.message_count,
                        "created_at": conversation.created_at,
                    }
                    for ordinal, conversation in enumerate(self._conversations[start : start + 100], start + 1)
                ],
            )
        yield self._pages.render("index_orders_start.html")
        async for orders in self._queries.orders():
            yield self._pages.render("index_orders.html", orders=[order._asdict() for order in orders])
        values = {
            "email_profile": self._email_profile,
            "unsent": unsent,
            "internal": self._internal,
            "was_admin": self._was_admin,
        }
        yield self._pages.render("index_end.html", **values)
        yield self._pages.render("page_end.html")

    async def _orders(self) -> AsyncIterator[list[dict[str, Any]]]:
        async for orders in self._queries.orders():
            yield [_order(order) for order in orders]

    async def _add_conversation(self, archive: Archive, ordinal: str, conversation: ExportedConversation) -> None:
        async for rows in self._queries.messages(conversation, with_files=True):
            for row in rows:
                for position, file in enumerate(row["attachments"], 1):
                    await self._add_file(archive, _path(ordinal, row["number"], position, file["name"]), file)
        most = conversation.message_count * _MOST_BYTES
        await archive.add_text(
            f"data/conversations/{ordinal}.json", self._conversation_json(ordinal, conversation), most
        )
        await archive.add_text(f"conversations/{ordinal}.html", self._conversation_page(ordinal, conversation), most)

    async def _conversation_json(self, ordinal: str, conversation: ExportedConversation) -> AsyncIterator[str]:
        about = conversation._asdict()
        if not self._internal:
            del about["labels"]
        yield f'{{"conversation": {write_json(about).decode()},\n"messages": '
        async for part in _array(lambda: self._messages(ordinal, conversation)):
            yield part
        yield ',\n"events": '
        async for part in _array(lambda: self._entries(conversation)):
            yield part
        yield "}\n"

    async def _conversation_page(self, ordinal: str, conversation: ExportedConversation) -> AsyncIterator[str]:
        labels = conversation.labels if self._internal else []
        yield self._start(conversation.subject, up="../index.html")
        yield self._pages.render("conversation_start.html", conversation=conversation, labels=labels)
        async for messages in self._messages(ordinal, conversation):
            yield self._pages.render("messages.html", messages=messages)
        yield self._pages.render("entries_start.html")
        async for entries in self._entries(conversation):
            yield self._pages.render("entries.html", entries=entries)
        yield self._pages.render("list_end.html")
        yield self._pages.render("page_end.html")

    async def _messages(self, ordinal: str, conversation: ExportedConversation) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield messages as customers see them: an admin has a name or the store's, and neither id nor address."""
        async for rows in self._queries.messages(conversation):
            yield [self._message(ordinal, row) for row in rows]

    def _message(self, ordinal: str, row: Mapping[str, Any]) -> dict[str, Any]:
        by_customer = row["sender_role"] == Side.CUSTOMER
        files = row["attachments"] or []
        return {
            "number": row["number"],
            "from": "customer" if by_customer else "store",
            "name": row["sender_name"] or (self._person.id if by_customer else self._store_name),
            "sent_at": row["created_at"],
            "via": row["via"],
            "removed": row["removed"],
            "body": row["body"],
            "attachments": [
                self._file(file, _path(ordinal, row["number"], position, file["name"]))
                for position, file in enumerate(files, 1)
            ],
        }

    async def _entries(self, conversation: ExportedConversation) -> AsyncIterator[list[dict[str, Any]]]:
        kinds = (*_SHOWN_KINDS, *(_INTERNAL_KINDS if self._internal else ()))
        async for rows in self._queries.entries(conversation.id, kinds):
            yield [self._entry(row) for row in rows]

    def _entry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        data = row["data"]
        entry = {"kind": row["kind"], "at": row["at"], "after_number": row["after_number"]}
        if row["kind"] == EntryKind.NOTE:
            return entry | {"name": row["actor_name"] or self._store_name, "body": data.get("body")}
        shown = ("from", "to") if row["kind"] == EntryKind.STATUS else ("from", "number", "added", "removed")
        return entry | {"from": None} | {name: data[name] for name in shown if name in data}

    async def _unsent_file(self, archive: Archive, row: Mapping[str, Any]) -> dict[str, Any]:
        file = dict(row) | {"id": str(row["id"])}
        path = f"files/unsent/{file['id']}-{_file_name(file['name'])}"
        await self._add_file(archive, path, file)
        return self._file(file, path)

    async def _add_file(self, archive: Archive, path: str, file: Mapping[str, Any]) -> None:
        """Add a file, unless it is withheld or the store does not have it."""
        if file["state"] != FileState.READY:
            return
        async with aclosing(self._files.read_slices(UUID(file["id"]), file["size"])) as slices:
            try:
                first = await anext(slices, b"")
            except FileNotFoundError:
                log.warning("file missing in an export", attachment_id=file["id"])
                return
            await archive.add_file(path, _after(first, slices), file["size"])
        self._added.add(file["id"])

    def _file(self, file: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Return what is shown of a file. `left_out` says why its bytes are not in the archive."""
        left_out = None
        if file["id"] not in self._added:
            left_out = "missing" if file["state"] == FileState.READY else file["state"]
        shown = {name: file[name] for name in ("id", "name", "size", "content_type", "sha256")}
        return shown | {"file": None if left_out else path, "left_out": left_out}

    async def _add_notifications(self, archive: Archive) -> None:
        items = self._notifications.items
        await self._add_list(archive, "notifications", "Notifications", lambda: items("notifications"))
        await self._add_list(archive, "emails", "Emails to this person", lambda: items("emails"))
        async for page in items("inbound-emails"):
            for item in page:
                if item["original"] and (original := await self._notifications.read_original(item["id"])) is not None:
                    await archive.add_file(_original(item), _bytes(original), len(original))
        await self._add_list(archive, "received-emails", "Emails from this person", self._received)

    async def _received(self) -> AsyncIterator[list[dict[str, Any]]]:
        async for page in self._notifications.items("inbound-emails"):
            yield [item | {"file": _original(item) if item["original"] else None} for item in page]

    async def _add_list(self, archive: Archive, name: str, title: str, rows: Rows) -> None:
        """Add a list as JSON and as a page."""
        await archive.add_text(f"data/{name}.json", _array(rows))
        await archive.add_text(f"{name}.html", self._list_page(self._pages.gettext(title), f"{name}.html", rows))

    async def _list_page(self, title: str, template: str, rows: Rows) -> AsyncIterator[str]:
        yield self._start(title, up="index.html")
        yield self._pages.render("list_start.html")
        async for items in rows():
            yield self._pages.render(template.replace("-", "_"), items=items)
        yield self._pages.render("list_end.html")
        yield self._pages.render("page_end.html")

    async def _add_admin_work(self, archive: Archive) -> None:
        """Add what the person wrote as an admin: text, without the messages that it answers."""
        folder, queries = "data/support-team", self._queries
        async for rows in queries.written_as_admin():
            for row in rows:
                for path, file in _admin_files(row):
                    await self._add_file(archive, path, file)
        assigned = [row["id"] for row in await queries.assigned()]
        await archive.add_text(f"{folder}/assigned.json", _one(write_json(assigned).decode()))
        await archive.add_text(f"{folder}/messages.json", _array(self._written_as_admin))
        await archive.add_text(f"{folder}/notes.json", _array(queries.notes))
        await archive.add_text(f"{folder}/audit.json", _array(queries.acts))
        notifications = _array(lambda: self._notifications.items("admin-notifications"))
        await archive.add_text(f"{folder}/notifications.json", notifications)
        await archive.add_text("support-team.html", self._admin_work_page())

    async def _written_as_admin(self) -> AsyncIterator[list[dict[str, Any]]]:
        async for rows in self._queries.written_as_admin():
            yield [
                dict(row) | {"attachments": [self._file(file, path) for path, file in _admin_files(row)]}
                for row in rows
            ]

    async def _admin_work_page(self) -> AsyncIterator[str]:
        yield self._start(self._pages.gettext("What this person wrote for the store"), up="index.html")
        for rows in (self._written_as_admin, self._queries.notes):
            async for items in rows():
                lacking: dict[str, Any] = {"number": None, "removed": False, "attachments": []}
                shown = [lacking | {**item, "at": item.get("sent_at") or item.get("at")} for item in items]
                yield self._pages.render("support_team.html", items=shown)
        yield self._pages.render("page_end.html")

    def _start(self, title: str, *, up: str | None) -> str:
        return self._pages.render("page_start.html", title=title, up=up)


def _order(order: OrderRow) -> dict[str, Any]:
    return order._asdict() | {"id": order.id.partition(" ")[0]}  # a former state has a suffix, see `former_order_id`


def _file_name(name: str) -> str:
    return safe_name(safe_name(name).translate(_NOT_IN_FILE_NAMES))


def _path(ordinal: str, number: int, position: int, name: str) -> str:
    """Return where a file of a message is in the archive; `ordinal` is the folder of its conversation."""
    return f"files/{ordinal}/{number:04}-{position}-{_file_name(name)}"


def _admin_files(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the files of an admin's message, each with its path in the archive."""
    return [
        (_path(f"support-team/{row['conversation_id']}", row["number"], position, file["name"]), file)
        for position, file in enumerate(row["attachments"] or [], 1)
    ]


def _original(item: Mapping[str, Any]) -> str:
    return f"emails/{item['id']}.eml"


async def _array(rows: Rows) -> AsyncIterator[str]:
    """Yield a JSON array of items, one on each line."""
    start = "[\n"
    async for items in rows():
        yield start + ",\n".join(write_json(dict(item)).decode() for item in items)
        start = ",\n"
    yield "[]" if start == "[\n" else "\n]"


async def _one(text: str) -> AsyncIterator[str]:
    yield text


async def _bytes(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    try:
        async for chunk in rest:
            yield chunk
    except FileNotFoundError:
        raise Interrupted("A file was deleted while it was exported.") from None
