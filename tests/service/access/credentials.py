"""How callers come: by a token in the header, by the cookie of their browser, and by everything that is neither."""

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
    """What a request brings with it. `token` is what the store's page hands over, `csrf` what our own pages know."""

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    csrf: str = ""
    token: str = ""


@dataclass(frozen=True)
class Wallet:
    """Every credential. `cookies` are those of the browsers in which people have signed in, `ended` of no session."""

    cookies: Mapping[str, str]
    ended: Mapping[str, str]

    def of(self, caller: str, row: Row) -> Iterator[Credential]:
        """Return how a caller of the table comes to a route."""
        people = {"owner": OWNER, "other": OTHER, "admin": ADMIN}
        if caller == "nobody":
            yield Credential("nothing")
        elif caller in people:
            who = people[caller]
            if not row.is_page:
                yield in_header("token", store_token(who, ROLES[who]))
            yield in_cookie("cookie", self.cookies[who], store_token(who, ROLES[who]))
        else:
            token = store_token("shop", "store") if caller == "store" else FEED_SECRET
            yield Credential("token", {"Authorization": f"Bearer {token}"}, token=token)

    def refused(self, row: Row) -> Iterator[Credential]:
        """Return what is as good as nothing, of everybody whom the row lets in."""
        for header in ("", "Bearer", "Bearer ", "Bearer x.y.z", "Bearer .."):
            yield Credential(f"{header!r} alone", {"Authorization": header})
        for caller, who, deleted in (("owner", OWNER, DELETED), ("admin", ADMIN, DELETED_ADMIN), ("store", "shop", "")):
            if row.statuses[caller] < 400:
                yield from self._refused_of(who, ROLES.get(who, "store"), deleted, row)
        if row.statuses["feed"] < 400:
            yield Credential("the feed's, cut", {"Authorization": f"Bearer {FEED_SECRET[:-1]}"})
            yield Credential("the feed's, as a password", {"Authorization": f"Basic {FEED_SECRET}"})
            yield Credential("the feed's, alone", {"Authorization": FEED_SECRET})
            yield Credential("the feed's, in a cookie", {"Cookie": f"chats={FEED_SECRET}"})

    def _refused_of(self, who: str, role: str, deleted: str, row: Row) -> Iterator[Credential]:
        good = store_token(who, role)
        tokens = {
            "an expired token": store_token(who, role, seconds=-31),
            "a forged token": _signed(good, ANOTHER_SECRET, "HS256"),
            "a token that nobody signed": _signed(good, "", "none"),
            "a token with another's signature": good.rpartition(".")[0] + "." + store_token("x").rpartition(".")[2],
            "a token for elsewhere": _signed(good, SECRET, "HS256", aud="elsewhere"),
            "a token without a role": store_token(who, ""),
            "a token of a role that is none": store_token(who, "owner"),
            "a token of nobody": store_token("two words", role),
        }
        if deleted:
            tokens["a deleted user's token"] = store_token(deleted, role)
        if who in self.cookies:
            tokens["a session's token"] = self.cookies[who]
        for name, token in tokens.items():
            yield in_header(name, token)
        if row.is_page and row.statuses["nobody"] >= 400:
            yield from (Credential(f"{name}, handed over", token=token) for name, token in tokens.items())
            yield in_header("a token, of which pages know nothing", good)
        yield Credential("a token as a password", {"Authorization": f"Basic {good}"})
        yield Credential("a token as a cookie", {"Cookie": f"chats={good}"})
        yield Credential("two tokens in one", {"Authorization": f"Bearer {good} {good}"})
        if deleted:
            yield in_cookie("a forged cookie", _signed(self.cookies[who], ANOTHER_SECRET, "HS256"))
            if not row.is_page:  # which renew it, as long as the session lives
                yield in_cookie("a cookie that expired", aged(self.cookies[who], minutes=11))
            if row.service == "conversations":  # the other knows cookies only, which expire
                yield in_cookie("a cookie of a session that ended", self.ended[who])
            yield in_cookie("a deleted user's cookie", self.cookies[deleted])


def in_header(name: str, token: str) -> Credential:
    return Credential(name, {"Authorization": f"Bearer {token}"})


def in_cookie(name: str, cookie: str, token: str = "") -> Credential:
    """Come by a cookie, as a script or a form of our own pages does."""
    csrf = jwt.decode(cookie, options={"verify_signature": False})["csrf"]
    return Credential(name, {"Cookie": f"chats={cookie}", "Origin": f"http://{HOST}"}, csrf, token)


def foreign(cookie: Credential) -> Iterator[Credential]:
    """Return how a browser comes with its cookie when no page of ours has sent it, also one that knows the secret."""
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


async def sign_in(app: FastAPI, who: str) -> str:
    """Return the cookie of a new browser of somebody."""
    answer = await ask(app, "POST", "/session", {}, form={"token": store_token(who, ROLES[who])})
    cookie = answer.header("set-cookie") or ""
    return cookie.partition(";")[0].removeprefix("chats=")


def _signed(token: str, secret: str, algorithm: str, **claims: str) -> str:
    said = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(said | claims, secret, algorithm=algorithm)
