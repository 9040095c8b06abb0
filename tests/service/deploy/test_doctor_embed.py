"""`chats doctor embed`: whether a store's page can show the messenger with a token, and why not."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterable
from typing import Any

import jwt
import pytest

from deploy.doctor import embed_origin
from deploy.doctor.embed import check
from deploy.doctor.findings import Finding
from shared.database.transactions import SessionFactory
from tests.helpers.identity_provider import Provider
from tests.service.conftest import running_api

SECRET = "a-secret-for-tests-of-32-bytes-or-more"
STORE = "https://store.example"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_AUTH_SECRET", SECRET)
    monkeypatch.setenv("CHATS_PUBLIC_URL", "https://127.0.0.1:1")  # where nothing answers
    monkeypatch.setenv("CHATS_STORE_ORIGINS", f"{STORE},https://www.shop.example,http://localhost:3000")


def token(secret: str = SECRET, **claims: Any) -> str:
    now = int(time.time())
    content = {"sub": "anna", "role": "customer", "aud": "chats", "iat": now, "exp": now + 300, **claims}
    return jwt.encode({name: value for name, value in content.items() if value is not None}, secret)


def lines(findings: Iterable[Finding], *severities: str) -> list[str]:
    return [finding.text for finding in findings if finding.severity.name in severities]


async def test_a_good_token_says_whom_it_speaks_for_and_what_is_used() -> None:
    given = token(name="Anna", email="anna@example.com", locale="de-AT")
    for text in (given, f"Bearer {given}\n", f'{{"token": "{given}"}}'):
        findings = await check(text, None, None)
        assert not lines(findings, "FAULT")
        assert lines(findings, "OK") == [
            "The token speaks for anna, role customer.",
            "name is used: Anna",
            "email is used: anna@example.com",
            "locale is used: de-AT",
        ]
    assert not any(given[-20:] in str(finding) for finding in findings)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            lambda: token("another secret with 32 bytes or more"),
            "The token's signature was not made with CHATS_AUTH_SECRET.",
        ),
        (lambda: token(sub=None), "The token has no sub."),
        (lambda: token(iat=None), "The token has no iat."),
        (lambda: token(sub=7), "The token's sub must be a string."),
        (lambda: token(sub="Änna"), "The token's sub must have 1 to 255 visible ASCII characters."),
        (lambda: token(aud="shop"), "The token's aud must be one of CHATS_AUTH_AUDIENCE: chats."),
        (lambda: token(role=None), "The token has no role in the claim role (CHATS_AUTH_ROLE_CLAIM)."),
        (lambda: token(role="vip"), "The token's role contains no known role (CHATS_AUTH_ROLE_MAP)."),
        (lambda: token(exp=int(time.time()) - 60), "The token has expired (exp)."),
        (
            lambda: token(iat=int(time.time()) + 600),
            "The token is not valid yet (iat, nbf). Check that the clocks agree.",
        ),
        (lambda: token(exp=int(time.time() * 1000)), "The token's iat or exp is in milliseconds."),
        (lambda: token(role="admin"), "The messenger refuses the role admin."),
        (lambda: token(role="store"), "The messenger refuses the role store."),
        (lambda: token(csrf="x"), "This is a session token, which is only accepted in the session cookie."),
        (lambda: "x", "This is not a JSON Web Token."),
        (
            lambda: '{"token": null}',
            "This is not a JSON Web Token.",
        ),
        (lambda: "a.b.c", "This is not a JSON Web Token."),
    ],
)
async def test_each_fault_of_a_token_is_said_with_what_to_do(given: Callable[[], str], text: str) -> None:
    findings = await check(given(), None, None)
    assert lines(findings, "FAULT") == [text]
    assert all(finding.advice for finding in findings if finding.severity.name == "FAULT")


async def test_all_faults_are_said_at_once() -> None:
    given = token("another secret with 32 bytes or more", sub=None, aud="shop", role="admin", exp=1)
    assert len(lines(await check(given, None, None), "FAULT")) == 5


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"email": "anna"}, "email is not used: it is not an email address."),
        ({"email": "anna@example.com", "email_verified": False}, "email is not used: email_verified is false."),
        ({"locale": "Klingon!"}, "locale is not used: it is not a language such as de-AT."),
        ({"zoneinfo": 7}, "zoneinfo is not used: it is not a time zone such as Europe/Vienna."),
        ({"exp": time.time() + 30 * 86_400}, "The token is valid for 30 days."),
        (
            {"iat": time.time() - 4000},
            "s old: the messenger and the sign-in form accept it for 300 s.",
        ),
    ],
)
async def test_what_is_accepted_but_not_right_is_a_warning(claims: dict[str, Any], text: str) -> None:
    findings = await check(token(**claims), None, None)
    assert not lines(findings, "FAULT")
    assert any(text in line for line in lines(findings, "WARNING"))


async def test_a_token_of_an_identity_provider_is_verified_with_its_key(
    monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    monkeypatch.setenv("CHATS_AUTH_JWKS_URL", "http://127.0.0.1:1/keys")
    given = token().split(".")
    header = jwt.utils.base64url_encode(b'{"alg":"ES256","typ":"JWT","kid":"x"}').decode()
    forged = ".".join([header, *given[1:]])
    assert "The signature was not checked" in lines(await check(forged, None, None), "WARNING")[0]
    monkeypatch.setenv("CHATS_AUTH_JWKS_URL", provider.url)
    text = "The identity provider has no key for the token's kid and alg."
    assert lines(await check(forged, None, None), "FAULT") == [text]


@pytest.mark.parametrize(
    ("origin", "text", "advice"),
    [
        ("store.example", "This is not an origin: it has no scheme.", "https://store.example"),
        ("https://", "This is not an origin.", "scheme, host and port"),
        ("https://store.example:99999", "This is not an origin.", "scheme, host and port"),
        ("null", "The origin is null: the page hides it", "strict-origin-when-cross-origin"),
        ("https://shop.example", "is not in CHATS_STORE_ORIGINS", "with and without www. are two origins"),
        ("http://store.example", "is not in CHATS_STORE_ORIGINS", "the scheme is another one, https instead of http"),
        ("https://store.example:8443", "is not in CHATS_STORE_ORIGINS", "the port is another one"),
        ("http://127.0.0.1:3000", "is not in CHATS_STORE_ORIGINS", "are two sites"),
        ("https://bücher.example", "https://xn--bcher-kva.example is not in", "xn--bcher-kva.example\nand restart"),
    ],
)
async def test_an_origin_that_is_not_listed_is_compared_with_those_that_are(
    origin: str, text: str, advice: str
) -> None:
    [found] = [finding for finding in await check(None, origin, None) if finding.severity.name == "FAULT"]
    assert text in found.text
    assert advice in str(found.advice)


@pytest.mark.parametrize("written", [STORE, f"{STORE}/", "HTTPS://Store.Example", f"{STORE}:443", f"{STORE}/cart?id=1"])
async def test_an_origin_is_read_as_browsers_send_it(written: str) -> None:
    findings = await check(None, f" {written} ", None)
    assert f"{STORE} is in CHATS_STORE_ORIGINS." in lines(findings, "OK")
    assert (f"Browsers send {STORE} for pages there." in lines(findings, "NOTE")) == (written != STORE)


@pytest.mark.parametrize(
    ("origin", "url", "severity", "text"),
    [
        (STORE, "http://chats.example", "FAULT", "browsers block it as mixed content"),
        ("http://store.example", "http://chats.example", "FAULT", "without https no browser keeps the panel's cookie"),
        ("http://store.example", "https://chats.example", "WARNING", "others on its network can read the tokens"),
        (STORE, "https://chats.store.example", "OK", "are one site for browsers:"),
        (
            "https://shop.store.example",
            "https://chats.store.example",
            "OK",
            "one site for browsers if store.example is",
        ),
        ("http://10.0.0.1", "http://10.1.0.1", "FAULT", "are two sites"),
        ("http://localhost:3000", "http://127.0.0.1:8000", "OK", "are two sites"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:8000", "OK", "are one site"),
        (STORE, "https://chats.example", "OK", "are two sites"),
    ],
)
async def test_what_browsers_do_with_the_panels_cookie(origin: str, url: str, severity: str, text: str) -> None:
    assert any(text in line for line in lines(list(embed_origin.check_browser(origin, url)), severity))


async def test_the_deployment_is_asked_what_browsers_would_get(
    monkeypatch: pytest.MonkeyPatch, conversations: SessionFactory, databases: dict[str, str]
) -> None:
    async with running_api(conversations, databases["conversations"]) as live:
        monkeypatch.delenv("CHATS_AUTH_SECRET")  # on the store's machine
        own = live.settings.auth_secret[0].get_secret_value()
        findings = await check(token(own), STORE, live.origin)
        assert not lines(findings, "FAULT")
        assert {
            f"{live.origin}/chats-static/messenger.js can be loaded by any page.",
            f"Browsers may show the panel on {STORE}.",
            "The API accepts the token.",
        } <= {*lines(findings, "OK")}
        assert lines(findings, "WARNING") == [
            "CHATS_LOGIN_URL is not set: links in emails lead visitors without a session to an error."
        ]
        findings = await check(token(), "https://new.example", live.origin)
    allowed = f"frame-ancestors {' '.join(live.settings.store_origins)}"
    assert lines(findings, "FAULT") == [
        f"Browsers refuse to show the panel on https://new.example: /messenger/start/ has “{allowed}”.",
        "The API refuses the token: The token's signature was not made with CHATS_AUTH_SECRET.",
        "Scripts on https://new.example cannot read the API's answers: there is no Access-Control-Allow-Origin for it.",
    ]


async def test_the_command_reads_the_token_from_standard_input_and_exits_by_the_worst() -> None:
    async def run(given: str, *options: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "deploy.cli", "doctor", "embed", "--token", "-", "--json", *options]
        # A process: loggers that are first used while a runner holds the standard output would keep writing to its own.
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        output, _ = await process.communicate(given.encode())
        return process.returncode or 0, json.loads(output)

    code, report = await run(f"{token(name='Anna')}\n", "--origin", STORE)
    assert code == 1  # nothing answers at CHATS_PUBLIC_URL
    assert report["severity"] == "warning"
    assert {finding["area"] for finding in report["findings"]} == {"embed"}
    assert (await run("", "--origin", STORE))[0] == 2
