"""The credentials of callers: bearer tokens, browsers' cookies, and everything that is neither."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import jwt
from fastapi import FastAPI

from tests.service.access.asgi import HOST, ask
from tests.service.access.table import Row
from tests.service.conftest import FEED_SECRET, SECRET
from tests.service.helpers.browser import aged, store_token

OWNER, OTHER, ADMIN = "canary-anna", "canary-ben", "canary-sam"
DELETED, DELETED_ADMIN = "canary-dora", "canary-dan"
ROLES = {OWNER: "customer", OTHER: "customer", ADMIN: "admin", DELETED: "customer", DELETED_ADMIN: "admin"}
ANOTHER_SECRET = "another secret, which is long enough too"


@dataclass(frozen=True)
class Credential:
    """A request's credentials. `token` is what the store's page submits, `csrf` what the product's own pages know."""

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    csrf: str = ""
    token: str = ""


@dataclass(frozen=True)
class Wallet:
    """All credentials. `cookies` are those of signed-in browsers, `ended` those of ended sessions."""

    cookies: Mapping[str, str]
    ended: Mapping[str, str]

    def of(self, caller: str, row: Row) -> Iterator[Credential]:
        """Return a caller's valid credentials for a route, by the table's name of the caller."""
        people = {"owner": OWNER, "other": OTHER, "admin": ADMIN}
        if caller == "nobody":
            yield Credential("nothing")
        elif caller in people:
            user_id = people[caller]
            if not row.is_page:
                yield in_header("token", store_token(user_id, ROLES[user_id]))
            yield in_cookie("cookie", self.cookies[user_id], store_token(user_id, ROLES[user_id]))
        else:
            token = store_token("shop", "store") if caller == "store" else FEED_SECRET
            yield Credential("token", {"Authorization": f"Bearer {token}"}, token=token)

    def refused(self, row: Row) -> Iterator[Credential]:
        """Return invalid credentials of every caller that the row admits."""
        for header in ("", "Bearer", "Bearer ", "Bearer x.y.z", "Bearer .."):
            yield Credential(f"{header!r} alone", {"Authorization": header})
        for caller, user_id, deleted in (
            ("owner", OWNER, DELETED),
            ("admin", ADMIN, DELETED_ADMIN),
            ("store", "shop", ""),
        ):
            if row.statuses[caller] < 400:
                yield from self._refused_of(user_id, ROLES.get(user_id, "store"), deleted, row)
        if row.statuses["feed"] < 400:
            yield Credential("the feed's, cut", {"Authorization": f"Bearer {FEED_SECRET[:-1]}"})
            yield Credential("the feed's, as a password", {"Authorization": f"Basic {FEED_SECRET}"})
            yield Credential("the feed's, alone", {"Authorization": FEED_SECRET})
            yield Credential("the feed's, in a cookie", {"Cookie": f"chats={FEED_SECRET}"})

    def _refused_of(self, user_id: str, role: str, deleted: str, row: Row) -> Iterator[Credential]:
        valid = store_token(user_id, role)
        tokens = {
            "an expired token": store_token(user_id, role, seconds=-31),
            "a forged token": _signed(valid, ANOTHER_SECRET, "HS256"),
            "a token that nobody signed": _signed(valid, "", "none"),
            "a token with another's signature": valid.rpartition(".")[0] + "." + store_token("x").rpartition(".")[2],
            "a token for elsewhere": _signed(valid, SECRET, "HS256", aud="elsewhere"),
            "a token without a role": store_token(user_id, ""),
            "a token of a role that is none": store_token(user_id, "owner"),
            "a token of nobody": store_token("two words", role),
        }
        if deleted:
            tokens["a deleted user's token"] = store_token(deleted, role)
        if user_id in self.cookies:
            tokens["a session's token"] = self.cookies[user_id]
        for name, token in tokens.items():
            yield in_header(name, token)
        if row.is_page and row.statuses["nobody"] >= 400:
            yield from (Credential(f"{name}, handed over", token=token) for name, token in tokens.items())
            yield in_header("a token in the header, which pages ignore", valid)
        yield Credential("a token as a password", {"Authorization": f"Basic {valid}"})
        yield Credential("a token as a cookie", {"Cookie": f"chats={valid}"})
        yield Credential("two tokens in one", {"Authorization": f"Bearer {valid} {valid}"})
        if deleted:
            yield in_cookie("a forged cookie", _signed(self.cookies[user_id], ANOTHER_SECRET, "HS256"))
            if not row.is_page:  # pages renew it, as long as the session lives
                yield in_cookie("a cookie that expired", aged(self.cookies[user_id], minutes=11))
            if row.service == "conversations":  # notifications only checks that the cookie is not expired
                yield in_cookie("a cookie of a session that ended", self.ended[user_id])
            yield in_cookie("a deleted user's cookie", self.cookies[deleted])


def in_header(name: str, token: str) -> Credential:
    return Credential(name, {"Authorization": f"Bearer {token}"})


def in_cookie(name: str, cookie: str, token: str = "") -> Credential:
    """Return a credential with a cookie, as a script or form of the product's pages sends it."""
    csrf = jwt.decode(cookie, options={"verify_signature": False})["csrf"]
    return Credential(name, {"Cookie": f"chats={cookie}", "Origin": f"http://{HOST}"}, csrf, token)


def foreign(cookie: Credential) -> Iterator[Credential]:
    """Return requests with a browser's cookie from other pages, including some that know the CSRF token."""
    alone = {"Cookie": cookie.headers["Cookie"]}
    for headers in ({}, {"Origin": f"http://{HOST}"}):
        for csrf in ("", "x"):
            yield Credential("cookie alone", alone | headers, csrf)
    for headers in (
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": f"http://{HOST}.evil.test"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        yield Credential(str(headers), alone | headers, cookie.csrf)


async def sign_in(app: FastAPI, user_id: str) -> str:
    """Sign in with a new browser; return its cookie."""
    answer = await ask(app, "POST", "/session", {}, form={"token": store_token(user_id, ROLES[user_id])})
    cookie = answer.header("set-cookie") or ""
    return cookie.partition(";")[0].removeprefix("chats=")


def _signed(token: str, secret: str, algorithm: str, **claims: str) -> str:
    payload = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(payload | claims, secret, algorithm=algorithm)
