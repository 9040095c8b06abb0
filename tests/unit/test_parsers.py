"""Every parser of outside input accepts any text: it returns the intended value or a documented error.

Bodies and query parameters are tested by schemathesis (tests/service/api/test_schemathesis.py). Other parsers have
tests of their own: addresses, locales, zones and ids in test_text.py and test_addresses.py, redirects after sign-in in
identity/test_sessions.py, key sets in shared/test_key_sets.py, mail servers' replies in mail/test_smtp.py.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from functools import partial
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from services.conversations.api.dependencies import IdempotencyKeyHeader, PathId, is_prefetch
from services.conversations.event_log.position import decode_position, encode_position
from services.conversations.rate_limits.policy import network_of
from services.conversations.search.query import parse
from services.conversations.search.words import terms
from services.conversations.web.forms import field_value, known_key
from services.notifications.api.routes.inbound_mime import given_secret
from services.notifications.inbound.recipients import addresses_in
from shared.api.request_limits import MAX_HEADER_BYTES, RequestSizeMiddleware
from shared.auth.cookies import check_csrf, cookie_name, is_own_origin, read_cookie
from shared.auth.jwks import ProviderKeys
from shared.auth.principal import Principal
from shared.auth.tokens import issue_token, verify_session_token, verify_token
from shared.observability.logs import request_id
from shared.paging import MAX_NUMBER, decode_cursor, encode_cursor, moment, number, store_id
from shared.problems import CsrfFailed, Invalid, Problem, Unauthenticated, Unavailable
from shared.settings import Role, TokenSettings
from tests.helpers.identity_provider import ALGORITHMS, private_key, public_jwk, signed

SETTINGS = TokenSettings(auth_secret=["a secret for tests, of 32 bytes or more"])
HOUR = timedelta(hours=1)
ANNA = Principal("anna", Role.CUSTOMER, name="Anna")
SESSION = UUID("01900000-0000-4000-8000-000000000000")
TOKEN = issue_token(SETTINGS, {"sub": "anna", "role": "customer", "name": "Anna"}, HOUR)
# Like `issue_session_token`, but valid for longer than a test run: it is made at collection.
COOKIE = issue_token(SETTINGS, {"sub": "anna", "role": "customer", "sid": str(SESSION), "csrf": "csrf"}, HOUR)
FILTERS = ("activity", None)
CURSOR: list[str | int] = ["2026-01-02T03:04:05+00:00", "anna", 7]
KEYS = {algorithm: jwt.PyJWK(public_jwk(private_key(algorithm))) for algorithm in ALGORITHMS}


@dataclass(frozen=True)
class Parser:
    """A parser, its errors, a valid text and its value; `is_open` returns whether another value is acceptable, too."""

    read: Callable[[str], Any]
    refusals: tuple[type[Exception], ...]
    valid: str
    value: Any
    is_open: Callable[[Any], bool] | None = None


def connection(**headers: str) -> HTTPConnection:
    """Return a request as it arrives: header values are bytes, decoded as Latin-1."""
    raw = [(name.encode(), value.encode("utf-8", "surrogatepass")) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "method": "POST", "headers": raw})


def csrf(given: str) -> bool:
    check_csrf(connection(), given, "csrf")
    return True


def csrf_header(given: str) -> bool:
    request = connection(**{"x-csrf-token": given})
    check_csrf(request, request.headers.get("X-CSRF-Token"), "csrf")
    return True


def forwarded(text: str) -> str:
    """Return the network that a client is counted by, from a trusted proxy's header."""
    clients: list[Any] = []

    async def app(scope: Any, _: Any, __: Any) -> None:
        clients.append(scope["client"])

    headers = [(b"x-forwarded-for", text.encode("utf-8", "surrogatepass"))]
    scope: Any = {"type": "http", "client": ("127.0.0.1", 1), "headers": headers}
    run(ProxyHeadersMiddleware(app, ["127.0.0.1"])(scope, None, None))  # type: ignore[arg-type] # never called
    return network_of(clients[0][0])


def declared_size(text: str) -> bool:
    """Pass on a request with a declared size."""

    async def app(*_: Any) -> None:
        pass

    headers = [(b"content-length", text.encode("utf-8", "surrogatepass"))]
    scope: Any = {"type": "http", "raw_path": b"/", "query_string": b"", "headers": headers}
    run(RequestSizeMiddleware(app)(scope, None, None))  # type: ignore[arg-type] # never called
    return True


def recipients(text: str) -> list[str]:
    message = Message()
    message["To"] = text.replace("\r", "").replace("\n", "\n ")
    return [address.lower() for address in addresses_in(message, "in.test")]


def run(steps: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the coroutine waits")


def is_subject(network: str) -> bool:
    return network == "unknown" or network in {str(ip_network(network)), str(ip_network(network).network_address)}


def is_uuid(text: str) -> bool:
    return str(UUID(text)) == text


def is_text(value: object) -> bool:
    return isinstance(value, str)


PARSERS = {
    "search": Parser(lambda text: parse(text).tsquery(), (Invalid,), "Parcel", "(('parcel':*))", is_open=is_text),
    "text to index": Parser(lambda text: sorted(terms(text)), (), "Wi", ["wi"], is_open=all),
    "bearer token": Parser(lambda text: verify_token(text, SETTINGS), (Unauthenticated,), TOKEN, ANNA),
    **{
        f"bearer token, {algorithm}": Parser(
            partial(verify_token, settings=SETTINGS, key=key),
            (Unauthenticated,),
            signed(private_key(algorithm), algorithm, name="Anna"),
            ANNA,
        )
        for algorithm, key in KEYS.items()
    },
    "session's token": Parser(
        lambda text: verify_session_token(text, SETTINGS).principal,
        (Unauthenticated,),
        COOKIE,
        Principal("anna", Role.CUSTOMER, session_id=SESSION),
    ),
    "session's token, of any age": Parser(
        lambda text: verify_session_token(text, SETTINGS, may_be_expired=True).csrf, (Unauthenticated,), COOKIE, "csrf"
    ),
    "cookies": Parser(
        lambda text: read_cookie(connection(cookie=text), SETTINGS),
        (),
        f'theme="a;b"; {cookie_name(SETTINGS)}={COOKIE}; other=1',
        COOKIE,
        lambda cookie: cookie is None or isinstance(cookie, str),
    ),
    "password of basic authentication": Parser(given_secret, (), "Basic YW55OnNlY3JldA==", "secret", is_text),
    "addresses of ours in headers": Parser(
        recipients, (), f"Shop <reply+{'a' * 52}@in.test>", [f"reply+{'a' * 52}@in.test"], lambda found: len(found) <= 1
    ),
    "csrf token": Parser(csrf, (CsrfFailed,), "csrf", True),
    "csrf token in a header": Parser(csrf_header, (CsrfFailed,), "csrf", True),
    "origin": Parser(
        lambda text: is_own_origin(connection(origin=text, host="chats.test")),
        (),
        "https://chats.test",
        True,
        lambda accepted: isinstance(accepted, bool),
    ),
    "host": Parser(
        lambda text: is_own_origin(connection(origin="https://chats.test", host=text)),
        (),
        "chats.test",
        True,
        lambda accepted: isinstance(accepted, bool),
    ),
    "fetch metadata": Parser(
        lambda text: is_own_origin(connection(**{"sec-fetch-site": text})),
        (),
        "same-origin",
        True,
        lambda accepted: accepted is False,
    ),
    "forwarded addresses": Parser(forwarded, (), "203.0.113.7, 127.0.0.1", "203.0.113.7", is_subject),
    "address": Parser(network_of, (), "2001:db8::7", "2001:db8::/64", is_subject),
    "declared size": Parser(declared_size, (HTTPException, Problem), "64", True),
    "request id": Parser(
        lambda text: request_id(connection(**{"x-request-id": text}).scope["headers"]),
        (),
        str(SESSION),
        str(SESSION),
        is_uuid,
    ),
    "purpose": Parser(is_prefetch, (), "prefetch;prerender", True, lambda found: found is False),
    "idempotency key": Parser(
        TypeAdapter(IdempotencyKeyHeader).validate_python,
        (ValidationError,),
        "order 7, first try",
        "order 7, first try",
        lambda found: 1 <= len(found) <= 255 and found.isascii() and found.isprintable(),
    ),
    "id in a path": Parser(
        TypeAdapter(PathId).validate_python,
        (ValidationError,),
        "a%2Fb%25",
        "a/b%",
        lambda found: 1 <= len(found) <= 255 and found.isascii() and found.isprintable() and " " not in found,
    ),
    "cursor": Parser(
        lambda text: decode_cursor(text, FILTERS, moment, store_id, number),
        (Invalid,),
        encode_cursor(FILTERS, CURSOR),
        [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "anna", 7],
        lambda found: found[0].tzinfo is UTC and found[1].isascii() and 0 <= found[2] <= MAX_NUMBER,
    ),
    "position": Parser(
        lambda text: decode_position(text, SESSION),
        (),
        encode_position(SESSION, 7),
        7,
        lambda found: found is None or 0 <= found < 2**63,
    ),
    "form's key": Parser(known_key, (), str(SESSION), str(SESSION), is_uuid),
    "form's number": Parser(
        lambda text: field_value("seen_number", text), (), "7", 7, lambda found: isinstance(found, str | int)
    ),
}
each_parser = pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)

# Characters that are special to one parser may be special to another.
MARKS = ".=;,:/%&@-_+~[]{}\"'\\ \t\r\n\0\x7f²٣é😀\ud800"
WORDS = ["==", "..", "//", "%2f", "%00", "null", "NaN", "1e999", "-1", "9" * 20, "alg", "none", "crit"]
HOSTS = ["::1", "::ffff:127.0.0.1", "127.0.0.1:80", "https://"]
PIECES = st.sampled_from([*MARKS, *WORDS, *HOSTS])
ANYTHING = st.text() | st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


@st.composite
def _changed(draw: st.DrawFn, valid: str) -> str:
    """Mutate a valid text at a few positions: remove, insert, repeat, reverse."""
    text = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + draw(st.sampled_from([0, 1, 1, 4, 64])))))
        part = text[start:end]
        put = draw(PIECES | st.sampled_from(["", part * 2, part[::-1], part.swapcase(), text[:start]]))
        text = text[:start] + put + text[end:]
    return text


def read(parser: Parser, text: str) -> None:
    """Check that a parser returns an acceptable value or one of its documented errors."""
    try:
        result = parser.read(text)
    except parser.refusals:
        return
    assert result == parser.value or (parser.is_open is not None and parser.is_open(result)), result


@each_parser
def test_a_valid_text_is_parsed(parser: Parser) -> None:
    assert parser.read(parser.valid) == parser.value


@each_parser
@given(text=ANYTHING)
def test_any_text_is_parsed_correctly_or_rejected(parser: Parser, text: str) -> None:
    read(parser, text)


@each_parser
@given(data=st.data())
def test_a_mutated_text_is_parsed_correctly_or_rejected(parser: Parser, data: st.DataObject) -> None:
    read(parser, data.draw(_changed(parser.valid)))


@each_parser
def test_a_text_of_the_maximum_size_is_parsed_correctly_or_rejected(parser: Parser) -> None:
    pieces = [*'.=;,:/%-[{"\\ 0aA\0', "a.", "a=", "; ", "a=b; ", "%2f", "[[", '{"a":', "::", "1, ", "é", parser.valid]
    for piece in pieces:
        text = (piece * MAX_HEADER_BYTES)[:MAX_HEADER_BYTES]
        for hostile in (text, parser.valid + text, text + parser.valid):
            read(parser, hostile)


@pytest.fixture(scope="module")
async def no_keys() -> AsyncIterator[ProviderKeys]:
    """The keys of a provider that is not running."""
    keys = ProviderKeys("http://127.0.0.1:1/keys")
    yield keys
    await keys.close()


@given(text=ANYTHING | _changed(signed(private_key("RS256"), "RS256", {"kid": "a"})))
async def test_any_token_can_be_searched_for_a_key(no_keys: ProviderKeys, text: str) -> None:
    with suppress(Unauthenticated, Unavailable):
        assert await no_keys.find(text) is None
