"""A mailbox of Dovecot that people share: ours is taken and moved away, all else stays as it was."""

import asyncio
import imaplib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from services.notifications.inbound.imap_mailbox import ImapMailbox
from services.notifications.inbound.reception import InboundAddresses, Reception
from services.notifications.mail.imap import ImapConnection
from services.notifications.mail.imap_url import ImapServer
from services.notifications.mail.imap_wire import ImapRefused, LoginRefused
from shared.database.transactions import connection_provider, transaction
from shared.process import failpoints
from tests.helpers.waiting import eventually
from tests.real_mail.helpers.dovecot import PASSWORD
from tests.real_mail.helpers.town import Town
from tests.service.conftest import INBOUND_SECRET
from tests.service.inbound.rig import DOMAIN, TRUSTED, Rig

USER = "store@customer.test"
DONE = "Erledigt & fertig ü"


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Shared:
    """The mailbox, as a person sees it, and what reads it."""

    rig: Rig
    person: imaplib.IMAP4
    reception: Reception
    server: ImapServer
    mailbox: ImapMailbox
    clock: list[float] = field(default_factory=lambda: [0.0])
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, *contents: bytes) -> None:
        """Append emails to the inbox."""
        for content in contents:
            assert self.person.append("INBOX", None, None, content)[0] == "OK"

    def folder(self, name: str) -> list[tuple[str, str]]:
        """Return the Message-IDs and flags of a folder's emails."""
        assert self.person.select(f'"{name}"', readonly=True)[0] == "OK"
        items: list[Any] = self.person.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]
        found = [item for item in items if isinstance(item, tuple)]
        return [
            (text.decode().split()[-1], flags.decode().partition("(FLAGS (")[2].partition(")")[0])
            for flags, text in found
        ]

    async def arrived(self, count: int) -> None:
        """Wait for rows."""

        async def are_there() -> bool:
            return len(await self.rig.rows()) >= count

        await eventually(are_there)

    async def look(self) -> None:
        """Connect, look once, and go."""
        connection = await self.mailbox.open()
        try:
            await self.mailbox.look(connection, self.stop)
        finally:
            await connection.close()


@pytest.fixture
async def shared(town: Town) -> AsyncIterator[Shared]:
    port = town.servers.dovecot.imap
    server = ImapServer("127.0.0.1", port, "none", USER, PASSWORD)
    rig, clock = town.rig, [0.0]
    sessions = rig.sweeping.notifications
    acquire, transact = connection_provider(sessions.kw["bind"]), partial(transaction, sessions)
    addresses = InboundAddresses(DOMAIN, INBOUND_SECRET, "https://store.test", TRUSTED)
    reception = Reception(acquire, transact, addresses)
    await rig.send_email()
    with imaplib.IMAP4("127.0.0.1", port, timeout=20) as person:
        person.login(USER, PASSWORD)
        clear(person)
        yield Shared(rig, person, reception, server, ImapMailbox(reception, server, DONE, lambda: clock[0]), clock)


def clear(person: imaplib.IMAP4) -> None:
    person.select("INBOX")
    person.uid("STORE", "1:*", "+FLAGS", "(\\Deleted)")
    person.expunge()
    person.unselect()
    person.delete(f'"{ENCODED}"')


ENCODED = "Erledigt &- fertig &APw-"


def mail(rig: Rig, number: int, **headers: str) -> bytes:
    given = {"Message-ID": f"<{number}@customer.test>", "Date": "Thu, 01 Jan 1970 00:00:00 +0000"}
    return rig.reply(f"Line {number}", **(given | headers)).as_bytes()


async def test_only_ours_is_taken_and_moved_and_nothing_is_marked_as_read(shared: Shared) -> None:
    rig, forged = shared.rig, f"reply+{'a' * 52}@{DOMAIN}"
    others = [mail(rig, 1, To="sales@store.test"), mail(rig, 2, To=forged), mail(rig, 3, To=f"reply+x@{DOMAIN}")]
    shared.put(*others, mail(rig, 4), mail(rig, 5, To="x@y", **{"Delivered-To": rig.address}))
    report = mail(rig, 6, To=rig.bounces_to, **{"Return-Path": "<>", "Auto-Submitted": "auto-replied"})
    shared.put(report)
    await shared.look()
    left = shared.folder("INBOX")
    assert [name for name, _ in left] == [f"<{number}@customer.test>" for number in (1, 2, 3)]
    assert [name for name, _ in shared.folder(ENCODED)] == [f"<{number}@customer.test>" for number in (4, 5, 6)]
    assert not any("Seen" in flags for _, flags in [*left, *shared.folder(ENCODED)])
    assert [row.same_as for row in await rig.rows()] == ["<4@customer.test>", "<5@customer.test>"]
    while await rig.post():
        pass
    assert [message["body"] for message in await rig.messages()] == ["Line 4", "Line 5"]
    await shared.look()
    assert len(shared.folder("INBOX")) == 3


async def test_killed_between_the_row_and_the_move_it_is_the_same_row_again(shared: Shared) -> None:
    shared.put(mail(shared.rig, 1))

    def die(reached: str) -> None:
        if reached == "inbound-imap-kept":
            raise Killed

    failpoints.armed = die
    try:
        with pytest.raises(Killed):
            await shared.look()
    finally:
        failpoints.armed = None
    assert (len(await shared.rig.rows()), len(shared.folder("INBOX"))) == (1, 1)
    await shared.look()
    assert (len(await shared.rig.rows()), shared.folder("INBOX")) == (1, [])
    assert len(shared.folder(ENCODED)) == 1


@pytest.mark.parametrize("without", [{"MOVE"}, {"MOVE", "UIDPLUS"}], ids=lambda names: "-".join(sorted(names)))
async def test_without_move_only_the_one_email_is_deleted(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, without: set[str]
) -> None:
    ask = ImapConnection.ask_capabilities

    async def fewer(self: ImapConnection) -> None:
        await ask(self)
        self.capabilities -= without

    monkeypatch.setattr(ImapConnection, "ask_capabilities", fewer)
    shared.put(mail(shared.rig, 1, To="x@y.test"), mail(shared.rig, 2))
    shared.person.select("INBOX")
    shared.person.store("1", "+FLAGS", "\\Deleted")
    if "UIDPLUS" in without:
        with pytest.raises(ImapRefused, match="neither MOVE nor UIDPLUS"):
            await shared.look()
    else:
        await shared.look()
        assert [name for name, _ in shared.folder(ENCODED)] == ["<2@customer.test>"]
    assert "<1@customer.test>" in dict(shared.folder("INBOX"))


async def test_one_email_that_cannot_be_taken_delays_no_other_and_is_tried_again(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.put(*(mail(shared.rig, number) for number in (1, 2, 3)))
    fetch = ImapConnection.fetch
    broken: list[int] = []

    async def fail(self: ImapConnection, uid: int, limit: int) -> bytes | None:
        if not broken or uid == broken[0]:
            broken[:] = [uid]
            raise ImapRefused("Internal error")
        return await fetch(self, uid, limit)

    with monkeypatch.context() as patch:
        patch.setattr(ImapConnection, "fetch", fail)
        await shared.look()
    assert [row.same_as for row in await shared.rig.rows()] == ["<2@customer.test>", "<3@customer.test>"]
    await shared.look()
    assert len(shared.folder("INBOX")) == 1
    shared.clock[0] = 31
    await shared.look()
    assert len(await shared.rig.rows()) == 3
    assert shared.folder("INBOX") == []


async def test_a_wrong_password_is_said_and_not_tried_in_a_loop(
    shared: Shared, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ImapServer(shared.server.host, shared.server.port, "none", USER, "another secret")
    with pytest.raises(LoginRefused):
        await ImapConnection.open(wrong)
    task = asyncio.create_task(ImapMailbox(shared.reception, wrong, DONE).run(shared.stop))
    await eventually(lambda: "mailbox refuses the login" in (said := capsys.readouterr().out) or (said and False))
    shared.stop.set()
    await task
    assert "another secret" not in capsys.readouterr().out


async def test_what_comes_is_taken_at_once_with_idle_and_after_the_connection_was_lost(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notifications.inbound.imap_mailbox.CONNECT_SECONDS", (0.1,))
    monkeypatch.setattr("services.notifications.inbound.imap_mailbox.BETWEEN_LOOKS", 0.0)
    opened: list[ImapConnection] = []
    kind = ImapConnection.open

    async def note(server: ImapServer) -> ImapConnection:
        opened.append(await kind(server))
        return opened[-1]

    monkeypatch.setattr(ImapConnection, "open", note)
    task = asyncio.create_task(shared.mailbox.run(shared.stop))
    try:
        for number in range(5):
            shared.put(mail(shared.rig, number))
            await shared.arrived(number + 1)
            if number == 2:
                await eventually(lambda: shared.folder("INBOX") == [])  # or it would be tried again much later
                opened[0]._writer.transport.abort()  # noqa: SLF001 - as the network does
    finally:
        shared.stop.set()
        async with asyncio.timeout(30):
            await task
    assert len(opened) == 2
    assert shared.folder("INBOX") == []


async def test_a_folder_that_was_made_anew_is_looked_at_from_its_beginning(shared: Shared) -> None:
    folder = replace(shared.server, folder="Replies")
    mailbox = ImapMailbox(shared.reception, folder, DONE)
    for number in (1, 2):
        shared.person.create("Replies")
        assert shared.person.append("Replies", None, None, mail(shared.rig, number))[0] == "OK"
        connection = await mailbox.open()
        await mailbox.look(connection, shared.stop)
        await connection.close()
        shared.person.delete("Replies")
    assert len(await shared.rig.rows()) == 2


async def test_a_large_email_comes_whole_in_steps(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.notifications.mail.imap.STEP", 1000)
    message = shared.rig.reply("See the file.")
    message.add_attachment(bytes(range(256)) * 40, maintype="application", subtype="octet-stream", filename="a.bin")
    shared.put(message.as_bytes())
    await shared.look()
    await shared.rig.post()
    [posted] = await shared.rig.messages()
    assert [file["size"] for file in posted["attachments"]] == [256 * 40]
