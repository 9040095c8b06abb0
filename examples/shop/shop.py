"""A small shop with Customer Chats built in: all that a store writes to embed it, in one file.

The first half is the embedding:

1. `sign` makes the tokens by which the chats know who somebody is.
2. `call` and what uses it keep the chats in step with the shop's people and orders.
3. `hand_over` takes a signed-in user to a page of the chats.
4. `chats_token` gives a fresh token to the unread badge, which stands in the header of `templates/base.html`.
5. `login` is where the chats send whom they do not know; `logout` ends what the user has open there as well.

The second half is the shop, a demo: it asks for no password, so whoever can open it can be anybody in it.

`make run` starts it. By hand it needs CHATS_AUTH_SECRET and CHATS_URL, and the chats need to know it by
CHATS_STORE_ORIGINS=http://127.0.0.1:8011, CHATS_LOGIN_URL=http://127.0.0.1:8011/login and
CHATS_STORE_URL=http://127.0.0.1:8011/. `read_settings` has the others.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import httpx2
import jinja2
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).parent
TOKEN_LIFETIME = timedelta(minutes=5)  # the longest that the chats take at `POST /session`
SIGNED_IN_FOR = timedelta(hours=12)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries to reach the chats
INBOXES = {"customer": "/dashboard/messages/", "admin": "/admin/dashboard/conversation/"}

log = logging.getLogger("uvicorn.error")  # the server's own, so that all is in one place


@dataclass(frozen=True)
class Settings:
    """What the environment says; `url` and `chats_url` are origins, as people's browsers see them."""

    auth_secret: str
    chats_url: str
    audience: str
    issuer: str | None
    name: str
    host: str
    port: int
    url: str
    session_secret: str
    data: Path | None  # where orders are kept; without it they begin anew at each start


class User(NamedTuple):
    """Somebody who can sign in; `role` is customer or admin."""

    id: str
    role: str
    name: str
    email: str
    locale: str
    zoneinfo: str


@dataclass
class Order:
    """What somebody bought. Its times are RFC 3339; an item is `{name, quantity, unit_price}`."""

    id: str
    user_id: str
    status: str
    currency: str
    placed_at: str
    updated_at: str
    items: list[dict[str, Any]]

    @property
    def total(self) -> Decimal:
        """The sum of its items."""
        return sum((item["quantity"] * Decimal(item["unit_price"]) for item in self.items), Decimal())


@dataclass
class Shop:
    """Everything that the pages below work with."""

    settings: Settings
    chats: httpx2.AsyncClient
    users: dict[str, User]
    orders: dict[str, Order]
    products: list[dict[str, str]]
    outbox: asyncio.Queue[Callable[[], Awaitable[bool]]] = field(default_factory=asyncio.Queue)


# --- 1. Tokens: who somebody is, signed with the secret that only the shop and the chats know


def sign(settings: Settings, sub: str, role: str, **profile: str) -> str:
    """Sign a token for the chats. It is for five minutes: whoever needs a later one gets a new one."""
    now = datetime.now(UTC)
    times = {"iat": now, "exp": now + TOKEN_LIFETIME}
    issuer = {"iss": settings.issuer} if settings.issuer else {}
    claims = {"sub": sub, "role": role, **profile, **times, "aud": settings.audience, **issuer}
    return jwt.encode(claims, settings.auth_secret, algorithm="HS256")


def token_of(shop: Shop, user: User) -> str:
    """Sign a token that speaks for a user of the shop. The shop says the role: nobody can ask for another one."""
    return sign(shop.settings, user.id, user.role, **_profile(user))


def _profile(user: User) -> dict[str, str]:
    return {"name": user.name, "email": user.email, "locale": user.locale, "zoneinfo": user.zoneinfo}


# --- 2. People and orders: at the start all of them, later each one that changes


async def call(shop: Shop, method: str, path: str, body: Mapping[str, Any] | None = None) -> bool:
    """Tell the chats something, as the store; False when they are away and it is to be told again later.

    Each of these calls may be repeated, and none can undo a later one, because `updated_at` goes with it.
    """
    bearer = {"Authorization": f"Bearer {sign(shop.settings, 'shop', 'store')}"}
    try:
        answer = await shop.chats.request(method, f"/api/v1/store/{path}", json=body, headers=bearer)
    except httpx2.TransportError:
        return False
    if answer.is_server_error or answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    if not answer.is_success:  # nor would it be the next time
        log.error("The chats refuse %s %s: %s %s", method, path, answer.status_code, answer.text)
    return True


async def put_user(shop: Shop, user: User) -> bool:
    """Tell the chats who a user is: their name, how mail reaches them, their language and time zone."""
    return await call(shop, "PUT", f"users/{quote(user.id, safe='')}", {"role": user.role, **_profile(user)})


async def put_order(shop: Shop, order: Order) -> bool:
    """Tell the chats how an order stands now; it is shown beside the conversations about it."""
    shown = {
        "user_id": order.user_id,
        "number": order.id,
        "status": order.status,
        "total": str(order.total),
        "currency": order.currency,
        "placed_at": order.placed_at,
        "url": f"{shop.settings.url}/orders/{order.id}",
        "items": order.items,
        "updated_at": order.updated_at,
    }
    return await call(shop, "PUT", f"orders/{quote(order.id, safe='')}", shown)


async def end_sessions(shop: Shop, user: User) -> bool:
    """End whatever a user has open at the chats, in every browser."""
    return await call(shop, "DELETE", f"users/{quote(user.id, safe='')}/sessions")


async def keep_in_step(shop: Shop) -> None:
    """Tell the chats what is in the outbox, each thing until it has arrived.

    What a crash leaves in there of people and orders is not lost, for all of them are put into it at each start. A shop
    of a million orders keeps its outbox in its database instead.
    """
    for user in shop.users.values():
        shop.outbox.put_nowait(partial(put_user, shop, user))
    for order in shop.orders.values():
        shop.outbox.put_nowait(partial(put_order, shop, order))
    while True:
        tell, pause = await shop.outbox.get(), FIRST_PAUSE
        while not await tell():
            if pause == FIRST_PAUSE:
                log.warning("The chats are away: %s", shop.settings.chats_url)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


# --- 3. The way from the shop to the chats


async def hand_over(request: Request) -> Response:
    """Take a signed-in user to the page of the chats that `next` names.

    By a form and not by a link: a token in an address would be kept in histories and logs. Every link from the shop to
    the chats leads through here, so that the chats show the inbox of whoever is signed in at the shop now.
    """
    shop, user, wanted = shop_of(request), signed_in(request), request.query_params.get("next", "")
    if user is None:
        return see_other("/login", next=wanted)
    there = wanted if is_page_of_chats(wanted) else INBOXES[user.role]
    return page(request, "hand_over.html", token=token_of(shop, user), next=there)


def is_page_of_chats(path: str) -> bool:
    """Tell whether this is a path of the chats' pages; it is only ever sent to the chats' own origin."""
    return path.startswith(tuple(INBOXES.values()))


# --- 4. The unread badge


async def chats_token(request: Request) -> Response:
    """Give the badge, which runs in our own pages, a token of the user who is signed in."""
    # Another site could not read the answer, for want of CORS headers; it has no business to ask, either.
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise HTTPException(403, "This is for the shop's own pages.")
    user = signed_in(request)
    if user is None:
        raise HTTPException(401, "Nobody is signed in.")
    return JSONResponse({"token": token_of(shop_of(request), user)})


# --- 5. Signing in and out


async def login(request: Request) -> Response:
    """Ask who it is, and lead to what `next` names; the chats' CHATS_LOGIN_URL leads here."""
    shop, user, wanted = shop_of(request), signed_in(request), request.query_params.get("next", "")
    if request.method == "POST":
        async with request.form() as form:
            # Here a real shop checks a password.
            chosen = shop.users.get(str(form.get("user")))
        if chosen is None:
            raise HTTPException(400, "There is no such user.")
        if user not in {None, chosen}:
            await sign_out(shop, user)
        return start_session(shop.settings, chosen, destination(chosen, wanted))
    if user is not None:
        return see_other(destination(user, wanted))
    return page(request, "login.html", next=wanted)


def destination(user: User, wanted: str) -> str:
    """Return where a user goes after the sign-in: always an address of ours, whatever was asked for."""
    if is_page_of_chats(wanted):
        return f"/chats?{urlencode({'next': wanted})}"
    start = "/admin" if user.role == "admin" else "/orders"
    return wanted if re.fullmatch(r"/orders/[\w-]+|/orders|/admin", wanted, re.ASCII) else start


async def logout(request: Request) -> Response:
    """Sign out of the shop and of the chats."""
    if user := signed_in(request):
        await sign_out(shop_of(request), user)
    response = see_other("/")
    response.delete_cookie("shop")
    return response


async def sign_out(shop: Shop, user: User) -> None:
    """End a user's sessions at the chats: now, or when they are back.

    In another browser, where the user is still signed in here, the chats ask us, and `hand_over` opens a new one.
    """
    if not await end_sessions(shop, user):
        shop.outbox.put_nowait(partial(end_sessions, shop, user))


# --- The shop itself: who is signed in


def start_session(settings: Settings, user: User, path: str) -> Response:
    """Remember in a cookie who is signed in, and go on."""
    # With a secret of its own: a token for the chats is no session here, nor the other way round.
    claims = {"sub": user.id, "exp": datetime.now(UTC) + SIGNED_IN_FOR}
    response = see_other(path)
    response.set_cookie(
        "shop",
        jwt.encode(claims, settings.session_secret, algorithm="HS256"),
        max_age=int(SIGNED_IN_FOR.total_seconds()),
        secure=settings.url.startswith("https:"),
        httponly=True,
        samesite="lax",
    )
    return response


def signed_in(request: Request) -> User | None:
    """Return who is signed in here."""
    shop = shop_of(request)
    try:
        claims = jwt.decode(request.cookies.get("shop", ""), shop.settings.session_secret, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        return None
    return shop.users.get(claims.get("sub", ""))


def require(request: Request, role: str | None = None) -> User:
    """Return who is signed in, in this role where one is given, or raise what leads to the sign-in."""
    user = signed_in(request)
    if user is None:
        raise HTTPException(303, headers={"Location": f"/login?{urlencode({'next': request.url.path})}"})
    if role not in {None, user.role}:
        raise HTTPException(403, f"This is for the role {role}.")
    return user


# --- The shop itself: its pages


async def home(request: Request) -> Response:
    """Show what there is to buy."""
    return page(request, "home.html", products=shop_of(request).products)


async def orders(request: Request) -> Response:
    """Show a customer's own orders; take a new one."""
    shop, user = shop_of(request), require(request, "customer")
    if request.method == "POST":
        async with request.form() as form:
            product = next((one for one in shop.products if one["name"] == form.get("product")), None)
        if product is None:
            raise HTTPException(400, "There is no such product.")
        buy(shop, user, product)
        return see_other("/orders")
    return page(request, "orders.html", orders=[one for one in newest(shop) if one.user_id == user.id])


async def order(request: Request) -> Response:
    """Show an order to its customer, or to an admin."""
    user, found = require(request), find_order(request)
    if user.role != "admin" and found.user_id != user.id:
        raise HTTPException(404)
    return page(request, "order.html", order=found, customer=shop_of(request).users[found.user_id])


async def admin(request: Request) -> Response:
    """Show all orders to an admin."""
    require(request, "admin")
    shop = shop_of(request)
    return page(request, "admin.html", orders=newest(shop), customers=shop.users)


async def ship(request: Request) -> Response:
    """Ship an order; the conversations about it show that a moment later."""
    require(request, "admin")
    found = find_order(request)
    if found.status == "processing":
        change(shop_of(request), found, "shipped")
    return see_other("/admin")


async def alive(_: Request) -> Response:
    """Tell whoever supervises us that we are here."""
    return PlainTextResponse("alive\n")


def find_order(request: Request) -> Order:
    """Return the order that the path names, or raise 404."""
    found = shop_of(request).orders.get(request.path_params["id"])
    if found is None:
        raise HTTPException(404)
    return found


def newest(shop: Shop) -> list[Order]:
    """Return all orders, the newest first."""
    return sorted(shop.orders.values(), key=lambda one: one.placed_at, reverse=True)


def see_other(path: str, **query: str) -> Response:
    """Lead to another page of ours."""
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303)


def shop_of(request: Request) -> Shop:
    """Return the shop that a request is for."""
    return request.app.state.shop  # type: ignore[no-any-return]


PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)


def page(request: Request, name: str, **values: Any) -> Response:
    """Render a page; each has the header with whoever is signed in."""
    shop, user = shop_of(request), signed_in(request)
    inbox = INBOXES[user.role] if user else ""
    frame = {"shop": shop, "settings": shop.settings, "user": user, "inbox": inbox}
    return HTMLResponse(PAGES.get_template(name).render(frame | values))


async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Let no other site post in a user's name, and say to browsers what our pages may load and send."""
    ours, chats = shop_of(request).settings.url, shop_of(request).settings.chats_url
    if request.method not in {"GET", "HEAD"} and request.headers.get("Origin") != ours:
        return PlainTextResponse("This did not come from a page of the shop.\n", 403)
    if request.url.path != "/healthz" and request.headers.get("Host") != urlsplit(ours).netloc:
        # The chats know one origin of ours; besides, no other name may lead here, whoever's it is.
        return RedirectResponse(ours + request.url.path + (f"?{query}" if (query := request.url.query) else ""))
    response = await call_next(request)
    response.headers.update(
        {
            "Content-Security-Policy": "; ".join(
                [
                    "default-src 'none'",
                    f"script-src 'self' {chats}/chats-static/",
                    f"connect-src 'self' {chats}",
                    f"form-action 'self' {chats}",
                    "style-src 'self'",
                    "img-src data:",
                    "base-uri 'none'",
                    "frame-ancestors 'none'",
                ]
            ),
            "X-Content-Type-Options": "nosniff",
            # With `no-referrer` or `same-origin` the hand-over would come from the origin `null`, and be refused.
            "Referrer-Policy": "strict-origin-when-cross-origin",
        }
    )
    if not request.url.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-store"
    return response


# --- The shop itself: its data


def buy(shop: Shop, user: User, product: Mapping[str, str]) -> None:
    """Take an order of one piece."""
    number = 1 + max(int(identity.removeprefix("A-")) for identity in shop.orders)
    item = {"name": product["name"], "quantity": 1, "unit_price": product["price"]}
    new = Order(f"A-{number}", user.id, "", product["currency"], _now(), "", [item])
    shop.orders[new.id] = new
    change(shop, new, "processing")


def change(shop: Shop, order: Order, status: str) -> None:
    """Give an order a status, keep it, and let the chats know."""
    order.status, order.updated_at = status, _now()
    keep(shop)
    shop.outbox.put_nowait(partial(put_order, shop, order))


def keep(shop: Shop) -> None:
    """Write the orders down, where a file was given for them."""
    if shop.settings.data:
        new = shop.settings.data.with_suffix(".new")
        new.write_text(json.dumps([asdict(one) for one in shop.orders.values()], indent=1))
        new.replace(shop.settings.data)


def open_shop(settings: Settings, chats: httpx2.AsyncClient) -> Shop:
    """Read the shop's people and products, and its orders as they stood when it closed."""
    begin = json.loads((HERE / "data.json").read_text())
    if settings.data and settings.data.exists():
        orders = [Order(**kept) for kept in json.loads(settings.data.read_text())]
    else:
        orders = [_placed(**given) for given in begin["orders"]]
    users = [User(**given) for given in begin["users"]]
    shop = Shop(settings, chats, {one.id: one for one in users}, {one.id: one for one in orders}, begin["products"])
    keep(shop)
    return shop


def _placed(days_ago: int, **given: Any) -> Order:
    placed = datetime.now(UTC) - timedelta(days=days_ago)
    return Order(**given, placed_at=placed.isoformat(), updated_at=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat()


# --- The process


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings, or end with a word about what is missing."""
    given = {name: value for name, value in environment.items() if value}
    if "CHATS_AUTH_SECRET" not in given:
        sys.exit("shop: CHATS_AUTH_SECRET is not set; it is the secret that the chats verify tokens with")
    host, port = given.get("SHOP_HOST", "127.0.0.1"), int(given.get("SHOP_PORT", "8011"))
    return Settings(
        auth_secret=given["CHATS_AUTH_SECRET"].split(",")[0].strip(),  # while it is replaced there are two
        chats_url=given.get("CHATS_URL", "http://127.0.0.1:8000").rstrip("/"),
        audience=given.get("CHATS_AUTH_AUDIENCE", "chats").partition(",")[0].strip(),
        issuer=given.get("CHATS_AUTH_ISSUER"),
        name=given.get("CHATS_STORE_NAME", "Demo Store"),
        host=host,
        port=port,
        url=given.get("SHOP_URL", f"http://{host}:{port}"),
        session_secret=given.get("SHOP_SECRET") or secrets.token_hex(32),  # a new one signs everybody out
        data=Path(given["SHOP_DATA"]) if "SHOP_DATA" in given else None,
    )


def create_app(settings: Settings) -> Starlette:
    """Build the application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=settings.chats_url, timeout=5) as chats:
            app.state.shop = open_shop(settings, chats)
            telling = asyncio.create_task(keep_in_step(app.state.shop))
            yield
            telling.cancel()

    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        routes=[
            Route("/", home),
            Route("/orders", orders, methods=["GET", "POST"]),
            Route("/orders/{id}", order),
            Route("/orders/{id}/ship", ship, methods=["POST"]),
            Route("/admin", admin),
            Route("/login", login, methods=["GET", "POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/chats", hand_over),
            Route("/chats-token", chats_token),
            Route("/healthz", alive),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
    )


if __name__ == "__main__":
    found = read_settings(os.environ)
    app = create_app(found)
    uvicorn.run(
        app, host=found.host, port=found.port, access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
