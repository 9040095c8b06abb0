"""The IMAP client against a server that says what a test wants: real ones are in tests/real_mail/test_imap.py."""

import asyncio
import ssl
from pathlib import Path

import pytest

from services.notifications.mail.imap import ImapConnection
from services.notifications.mail.imap_url import ImapServer, parse_imap_url
from services.notifications.mail.imap_wire import ImapError, LoginRefused, mailbox
from tests.helpers.authority import Authority
from tests.helpers.imap_server import scripted


def server_at(port: int, security: str = "none") -> ImapServer:
    scheme = {"none": "imap", "starttls": "imap+starttls", "tls": "imaps"}[security]
    return parse_imap_url(f"{scheme}://u:secret@127.0.0.1:{port}")


async def opened(port: int) -> ImapConnection:
    connection = await ImapConnection.open(server_at(port))
    await connection.select("INBOX")
    return connection


@pytest.mark.parametrize(
    "told", ["* 3 EXISTS\r\n+ idling\r\n", "+ idling\r\n* 3 EXISTS\r\n"], ids=["before it", "with it"]
)
async def test_an_email_that_comes_between_a_look_and_the_wait_ends_the_wait(told: str) -> None:
    answers = {
        "SELECT": "* 2 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n{tag} OK Done\r\n",
        "IDLE": told,
        "DONE": "{tag} OK\r\n",
    }
    async with scripted(answers) as (port, got):
        connection = await opened(port)
        assert await connection.search(1) == []
        async with asyncio.timeout(10):
            await connection.wait(1000, asyncio.Event())
        assert (got[-1], connection.news) == ("DONE", True)
        await connection.close()


async def test_a_number_that_is_told_again_is_no_news_and_a_wait_ends_when_it_must() -> None:
    answers = {
        "SELECT": "* 2 EXISTS\r\n{tag} OK Done\r\n",
        "UID SEARCH": "* SEARCH 5 3 9\r\n* 2 EXISTS\r\n* 1 EXPUNGE\r\n* 1 EXISTS\r\n{tag} OK\r\n",
        "IDLE": "+ idling\r\n* 1 EXISTS\r\n",
        "DONE": "{tag} OK\r\n",
    }
    async with scripted(answers) as (port, got):
        connection = await opened(port)
        assert await connection.search(4) == [5, 9]
        assert not connection.news
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, stop.set)
        async with asyncio.timeout(10):
            await connection.wait(1000, stop)
        assert got[-1] == "DONE"
        await connection.wait(0.01, asyncio.Event())
        assert got[-2:] == ["IDLE", "DONE"]
        await connection.close()


FETCHED: list[tuple[bytes, bytes | None]] = [
    (b"* 1 FETCH (UID 5 BODY[]<0> {7}\r\nUID 6 (\r\n FLAGS ())\r\n", b"UID 6 ("),
    (b'* 1 FETCH (BODY[]<0> "a\\"b" UID 5)\r\n', b'a"b'),
    (b'* 1 FETCH (BODY[]<0> "UID 9" UID 5)\r\n', b"UID 9"),
    (b"* 1 FETCH (UID 5 BODY[]<0> NIL)\r\n", b""),
    (b"* 1 FETCH (FLAGS (\\Seen) UID 5)\r\n", None),
    (b"* 1 FETCH (UID 6 BODY[]<0> {1}\r\nx)\r\n", None),
    (b"", None),
]


@pytest.mark.parametrize(("said", "content"), FETCHED, ids=range(len(FETCHED)))
async def test_an_email_is_read_in_each_form_that_servers_use(said: bytes, content: bytes | None) -> None:
    async with scripted({"UID FETCH": said + b"{tag} OK\r\n"}) as (
        port,
        _,
    ):
        connection = await opened(port)
        assert await connection.fetch(5, 100) == content
        await connection.close()


@pytest.mark.parametrize(
    "said",
    [
        b"* BYE Too many\r\n",
        b"* 1 FETCH (UID 5 BODY[]<0> {999999999}\r\n",
        b"+ more\r\n",
        b"x" * 9_000_000,
        b"* 1 FETCH (UID 5 BODY[]<0> {9}\r\nshort",
    ],
    ids=["bye", "huge", "more", "endless", "cut"],
)
async def test_a_server_that_says_what_it_must_not_ends_the_connection(said: bytes) -> None:
    async with scripted({"UID FETCH": said, "CLOSE": b""}) as (port, _):
        connection = await opened(port)
        if b"short" in said:
            asyncio.get_running_loop().call_later(0.2, connection._reader.feed_eof)  # noqa: SLF001 - it is gone
        with pytest.raises(ImapError):
            await connection.fetch(5, 100)
        await connection.close()


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_the_servers_certificate_is_verified_before_the_password_is_sent(tmp_path: Path, security: str) -> None:
    authority = Authority(tmp_path)
    own = authority.context()
    async with scripted({}, tls=own if security == "starttls" else None) as (port, got):
        if security == "starttls":
            connection = await ImapConnection.open(
                server_at(port, security), ssl.create_default_context(cafile=authority.file)
            )
            assert got[-2:] == ["AHUAc2VjcmV0", "CAPABILITY"]
            await connection.close()
        got.clear()
        with pytest.raises(ImapError):
            await ImapConnection.open(server_at(port, security))
        assert "AHUAc2VjcmV0" not in got


@pytest.mark.parametrize(
    ("capabilities", "security", "why"),
    [("IMAP4rev1 LOGINDISABLED", "none", "no password"), ("IMAP4rev1", "starttls", "no STARTTLS")],
)
async def test_a_password_is_not_sent_where_the_server_wants_none(capabilities: str, security: str, why: str) -> None:
    answers = {"CAPABILITY": f"* CAPABILITY {capabilities}\r\n{{tag}} OK Done\r\n"}
    async with scripted(answers) as (port, got):
        with pytest.raises(LoginRefused, match=why):
            await ImapConnection.open(server_at(port, security))
        assert not any("secret" in command or "AHUA" in command for command in got)


async def test_what_comes_before_tls_does_not_count_as_said_in_it() -> None:
    answers = {
        "CAPABILITY": "* CAPABILITY IMAP4rev1 STARTTLS\r\n{tag} OK\r\n",
        "STARTTLS": "{tag} OK\r\nC3 OK injected\r\n",
    }
    async with scripted(answers) as (port, _):
        with pytest.raises(ImapError, match="before TLS"):
            await ImapConnection.open(server_at(port, "starttls"))


def test_names_of_folders_are_written_as_imap_wants_them() -> None:
    assert mailbox('A & "B" \\ C') == '"A &- \\"B\\" \\\\ C"'
    assert mailbox("Entwürfe/台北") == '"Entw&APw-rfe/&U,BTFw-"'


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pop3://u:p@host", "must start with"),
        ("imaps://host", "a user and a password"),
        ("imaps://u@host", "a user and a password"),
        ("imaps://u:p@/INBOX", "needs a host"),
        ("imaps://u:sec/ret@host:x", "percent-encode"),
        ("imaps://u:p@host?x=1", "must end after the folder"),
        ("imaps://u:p%0d%0a@host", "no control characters"),
    ],
)
def test_a_wrong_url_is_refused_without_being_quoted(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_imap_url(url)
    assert "sec" not in str(caught.value)


def test_a_url_has_a_folder_and_no_password_in_what_is_shown() -> None:
    server = parse_imap_url("imap+starttls://anna%40store.example:p%2Fw@mail.example/Support%20in")
    assert (server.user, server.password, server.folder, server.port) == (
        "anna@store.example",
        "p/w",
        "Support in",
        143,
    )
    assert "p/w" not in repr(server)
    assert server.where == "mail.example:143"
