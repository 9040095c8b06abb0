"""A small example shop that embeds Customer Chats. All code that a store needs is in this file.

The first half is the integration:

1. `sign` creates the tokens that identify users to Customer Chats.
2. `call` and the functions that use it sync the shop's users and orders.
3. `hand_over` sends a signed-in user to a page of Customer Chats.
4. `chats_token` returns a fresh token for the messenger and the unread badge in `templates/base.html`.
5. `login` is the page to which Customer Chats sends users without a session. `logout` also ends their sessions there.

The second half is the shop itself, a demo: it asks for no password, so everyone can sign in as anyone.

`make run` starts it. To start it by hand, set CHATS_AUTH_SECRET and CHATS_URL (`read_settings` has the others), and for
Customer Chats set CHATS_STORE_ORIGINS=http://127.0.0.1:8011, CHATS_LOGIN_URL=http://127.0.0.1:8011/login and
CHATS_STORE_URL=http://127.0.0.1:8011/.
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
TOKEN_LIFETIME = timedelta(minutes=5)  # the maximum for `POST /session`
SESSION_LIFETIME = timedelta(hours=12)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts to reach Customer Chats
# Used if Customer Chats runs with CHATS_AUTH_PERMISSIONS_CLAIM=permissions.
PERMISSIONS = {"admin": ["delete", "reports", "audit", "operations", "webhooks"]}
INBOXES = {"customer": "/dashboard/messages/", "admin": "/admin/dashboard/conversation/"}

log = logging.getLogger("uvicorn.error")  # the server's own log


@dataclass(frozen=True)
class Settings:
    """Settings from the environment. `url` and `chats_url` are origins, as browsers see them."""

    auth_secret: str
    chats_url: str
    audience: str
    issuer: str | None
    name: str
    host: str
    port: int
    url: str
    session_secret: str
    data: Path | None  # file for orders; without it they are reset at each start


class User(NamedTuple):
    """A user who can sign in. `role` is customer or admin; `custom` is what only admins see in Customer Chats."""

    id: str
    role: str
    name: str
    email: str
    locale: str
    zoneinfo: str
    custom: Mapping[str, Any] = {}


@dataclass
class Order:
    """An order. Times are RFC 3339; an item is `{name, quantity, unit_price}`."""

    id: str
    user_id: str
    status: str
    currency: str
    placed_at: str
    updated_at: str
    items: list[dict[str, Any]]

    @property
    def total(self) -> Decimal:
        """The total price of all items."""
        return sum((item["quantity"] * Decimal(item["unit_price"]) for item in self.items), Decimal())


@dataclass
class Shop:
    """The shop's state."""

    settings: Settings
    chats: httpx2.AsyncClient
    users: dict[str, User]
    orders: dict[str, Order]
    products: list[dict[str, str]]
    outbox: asyncio.Queue[Callable[[], Awaitable[bool]]] = field(default_factory=asyncio.Queue)


# --- 1. Tokens, signed with the secret that only the shop and Customer Chats know


def sign(settings: Settings, sub: str, role: str, **profile: str | list[str]) -> str:
    """Sign a token for Customer Chats. It is valid for five minutes; sign a new one when needed."""
    now = datetime.now(UTC)
    times = {"iat": now, "exp": now + TOKEN_LIFETIME}
    issuer = {"iss": settings.issuer} if settings.issuer else {}
    claims = {"sub": sub, "role": role, **profile, **times, "aud": settings.audience, **issuer}
    return jwt.encode(claims, settings.auth_secret, algorithm="HS256")


def token_of(shop: Shop, user: User) -> str:
    """Sign a token for a user of the shop. The shop sets the role, so users cannot choose another one."""
    return sign(shop.settings, user.id, user.role, **_profile(user), permissions=PERMISSIONS.get(user.role, []))


def _profile(user: User) -> dict[str, str]:
    return {"name": user.name, "email": user.email, "locale": user.locale, "zoneinfo": user.zoneinfo}


# --- 2. Sync of users and orders: all at the start, later each one that changes


async def call(shop: Shop, method: str, path: str, body: Mapping[str, Any] | None = None) -> bool:
    """Call the store sync API. Return False if it is unavailable and the call should be retried.

    All of these calls are idempotent, and with `updated_at` an older state never wins.
    """
    bearer = {"Authorization": f"Bearer {sign(shop.settings, 'shop', 'store')}"}
    try:
        response = await shop.chats.request(method, f"/api/v1/store/{path}", json=body, headers=bearer)
    except httpx2.TransportError:
        return False
    if response.is_server_error or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    if not response.is_success:  # a retry would not help
        log.error("Customer Chats rejected %s %s: %s %s", method, path, response.status_code, response.text)
    return True


async def put_user(shop: Shop, user: User) -> bool:
    """Sync a user: name, email address, language, time zone, and fields of our own."""
    fields = {"role": user.role, "custom": user.custom, **_profile(user)}
    return await call(shop, "PUT", f"users/{quote(user.id, safe='')}", fields)


async def put_order(shop: Shop, order: Order) -> bool:
    """Sync an order. Conversations about it show its current state."""
    body = {
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
    return await call(shop, "PUT", f"orders/{quote(order.id, safe='')}", body)


async def end_sessions(shop: Shop, user: User) -> bool:
    """End all sessions of a user at Customer Chats."""
    return await call(shop, "DELETE", f"users/{quote(user.id, safe='')}/sessions")


async def keep_in_step(shop: Shop) -> None:
    """Make the calls in the outbox, and retry each until it succeeds.

    All users and orders are added at each start, so a crash loses none of their changes. A real shop should keep its
    outbox in its database instead.
    """
    for user in shop.users.values():
        shop.outbox.put_nowait(partial(put_user, shop, user))
    for order in shop.orders.values():
        shop.outbox.put_nowait(partial(put_order, shop, order))
    while True:
        send, pause = await shop.outbox.get(), FIRST_PAUSE
        while not await send():
            if pause == FIRST_PAUSE:
                log.warning("Customer Chats is unavailable: %s", shop.settings.chats_url)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


# --- 3. From the shop to Customer Chats


async def hand_over(request: Request) -> Response:
    """Send a signed-in user to the page of Customer Chats in `next`, with a form that starts a session there.

    A form, because browsers and servers would store a token in a URL. All links from the shop to Customer Chats lead
    here, so that it always shows the inbox of the user who is signed in at the shop.
    """
    shop, user, wanted = shop_of(request), signed_in(request), request.query_params.get("next", "")
    if user is None:
        return see_other("/login", next=wanted)
    target = wanted if is_page_of_chats(wanted) else INBOXES[user.role]
    return page(request, "hand_over.html", token=token_of(shop, user), next=target)


def is_page_of_chats(path: str) -> bool:
    """Return whether a path belongs to a page of Customer Chats. It is only used with that origin."""
    return path.startswith(tuple(INBOXES.values()))


# --- 4. The messenger, and the unread badge


async def chats_token(request: Request) -> Response:
    """Return a token of the signed-in user, for the messenger and the badge on the shop's pages."""
    # Without CORS headers other sites cannot read the response. They need not request it either.
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise HTTPException(403, "Only the shop's own pages can request this.")
    user = signed_in(request)
    if user is None:
        raise HTTPException(401, "You are not signed in.")
    return JSONResponse({"token": token_of(shop_of(request), user)})


# --- 5. Signing in and out


async def login(request: Request) -> Response:
    """Sign in a user, and redirect to `next`. CHATS_LOGIN_URL of Customer Chats is this page."""
    shop, user, wanted = shop_of(request), signed_in(request), request.query_params.get("next", "")
    if request.method == "POST":
        async with request.form() as form:
            # A real shop checks a password here.
            chosen = shop.users.get(str(form.get("user")))
        if chosen is None:
            raise HTTPException(400, "There is no such user.")
        if user is not None and user != chosen:
            await sign_out(shop, user)
        return start_session(shop.settings, chosen, destination(chosen, wanted))
    if user is not None:
        return see_other(destination(user, wanted))
    return page(request, "login.html", next=wanted)


def destination(user: User, wanted: str) -> str:
    """Return where to redirect a user after the sign-in: always a page of the shop, for any `next`."""
    if is_page_of_chats(wanted):
        return f"/chats?{urlencode({'next': wanted})}"
    start = "/admin" if user.role == "admin" else "/orders"
    return wanted if re.fullmatch(r"/orders/[\w-]+|/orders|/admin", wanted, re.ASCII) else start


async def logout(request: Request) -> Response:
    """Sign out of the shop and of Customer Chats."""
    if user := signed_in(request):
        await sign_out(shop_of(request), user)
    response = see_other("/")
    response.delete_cookie("shop")
    return response


async def sign_out(shop: Shop, user: User) -> None:
    """End a user's sessions at Customer Chats, now or once it is available again.

    If the user is still signed in to the shop in another browser, `hand_over` starts a new session there.
    """
    if not await end_sessions(shop, user):
        shop.outbox.put_nowait(partial(end_sessions, shop, user))


# --- The shop itself: sessions


def start_session(settings: Settings, user: User, path: str) -> Response:
    """Set the shop's session cookie, and redirect."""
    # Signed with another secret, so that tokens for Customer Chats are not accepted as sessions here, or vice versa.
    claims = {"sub": user.id, "exp": datetime.now(UTC) + SESSION_LIFETIME}
    response = see_other(path)
    response.set_cookie(
        "shop",
        jwt.encode(claims, settings.session_secret, algorithm="HS256"),
        max_age=int(SESSION_LIFETIME.total_seconds()),
        secure=settings.url.startswith("https:"),
        httponly=True,
        samesite="lax",
    )
    return response


def signed_in(request: Request) -> User | None:
    """Return the signed-in user, or None."""
    shop = shop_of(request)
    try:
        claims = jwt.decode(request.cookies.get("shop", ""), shop.settings.session_secret, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        return None
    return shop.users.get(claims.get("sub", ""))


def require(request: Request, role: str | None = None) -> User:
    """Return the signed-in user, or redirect to the sign-in. Raise 403 if the user lacks `role`."""
    user = signed_in(request)
    if user is None:
        raise HTTPException(303, headers={"Location": f"/login?{urlencode({'next': request.url.path})}"})
    if role not in {None, user.role}:
        raise HTTPException(403, f"This page requires the {role} role.")
    return user


# --- The shop itself: its pages


async def home(request: Request) -> Response:
    """Show the products."""
    return page(request, "home.html", products=shop_of(request).products)


async def orders(request: Request) -> Response:
    """Show a customer's orders, or place a new one."""
    shop, user = shop_of(request), require(request, "customer")
    if request.method == "POST":
        async with request.form() as form:
            product = next((entry for entry in shop.products if entry["name"] == form.get("product")), None)
        if product is None:
            raise HTTPException(400, "There is no such product.")
        buy(shop, user, product)
        return see_other("/orders")
    return page(request, "orders.html", orders=[order for order in newest(shop) if order.user_id == user.id])


async def order(request: Request) -> Response:
    """Show an order to its customer, or to an admin."""
    user, shown = require(request), find_order(request)
    if user.role != "admin" and shown.user_id != user.id:
        raise HTTPException(404)
    return page(request, "order.html", order=shown, customer=shop_of(request).users[shown.user_id])


async def admin(request: Request) -> Response:
    """Show all orders to an admin."""
    require(request, "admin")
    shop = shop_of(request)
    return page(request, "admin.html", orders=newest(shop), customers=shop.users)


async def ship(request: Request) -> Response:
    """Ship an order. Conversations about it show the new status a moment later."""
    require(request, "admin")
    shipped = find_order(request)
    if shipped.status == "processing":
        change(shop_of(request), shipped, "shipped")
    return see_other("/admin")


async def alive(_: Request) -> Response:
    """Answer health checks."""
    return PlainTextResponse("alive\n")


def find_order(request: Request) -> Order:
    """Return the order in the path, or raise 404."""
    order = shop_of(request).orders.get(request.path_params["id"])
    if order is None:
        raise HTTPException(404)
    return order


def newest(shop: Shop) -> list[Order]:
    """Return all orders, newest first."""
    return sorted(shop.orders.values(), key=lambda order: order.placed_at, reverse=True)


def see_other(path: str, **query: str) -> Response:
    """Redirect to another page of the shop."""
    return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303)


def shop_of(request: Request) -> Shop:
    """Return the shop's state."""
    return request.app.state.shop  # type: ignore[no-any-return]


PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)


def page(request: Request, name: str, **values: Any) -> Response:
    """Render a page, with the signed-in user in its header."""
    shop, user = shop_of(request), signed_in(request)
    inbox = INBOXES[user.role] if user else ""
    frame = {"shop": shop, "settings": shop.settings, "user": user, "inbox": inbox}
    return HTMLResponse(PAGES.get_template(name).render(frame | values))


async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Reject posts from other sites, and set security headers."""
    origin, chats = shop_of(request).settings.url, shop_of(request).settings.chats_url
    if request.method not in {"GET", "HEAD"} and request.headers.get("Origin") != origin:
        return PlainTextResponse("The request did not come from a page of the shop.\n", 403)
    if request.url.path != "/healthz" and request.headers.get("Host") != urlsplit(origin).netloc:
        # Customer Chats knows only this origin, and no foreign host name may lead here.
        return RedirectResponse(origin + request.url.path + (f"?{query}" if (query := request.url.query) else ""))
    response = await call_next(request)
    response.headers.update(
        {
            "Content-Security-Policy": "; ".join(
                [
                    "default-src 'none'",
                    f"script-src 'self' {chats}/chats-static/",
                    f"connect-src 'self' {chats}",
                    f"frame-src {chats}/messenger/",
                    f"form-action 'self' {chats}",
                    "style-src 'self'",
                    "img-src data:",
                    "base-uri 'none'",
                    "frame-ancestors 'none'",
                ]
            ),
            "X-Content-Type-Options": "nosniff",
            # With `no-referrer` or `same-origin`, the hand-over would have the origin `null` and be rejected.
            "Referrer-Policy": "strict-origin-when-cross-origin",
        }
    )
    if not request.url.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-store"
    return response


# --- The shop itself: its data


def buy(shop: Shop, user: User, product: Mapping[str, str]) -> None:
    """Place an order of one item."""
    number = 1 + max(int(order_id.removeprefix("A-")) for order_id in shop.orders)
    item = {"name": product["name"], "quantity": 1, "unit_price": product["price"]}
    new = Order(f"A-{number}", user.id, "", product["currency"], _now(), "", [item])
    shop.orders[new.id] = new
    change(shop, new, "processing")


def change(shop: Shop, order: Order, status: str) -> None:
    """Set an order's status, save it, and sync it."""
    order.status, order.updated_at = status, _now()
    keep(shop)
    shop.outbox.put_nowait(partial(put_order, shop, order))


def keep(shop: Shop) -> None:
    """Save the orders, if a file is configured."""
    if shop.settings.data:
        new = shop.settings.data.with_suffix(".new")
        new.write_text(json.dumps([asdict(order) for order in shop.orders.values()], indent=1))
        new.replace(shop.settings.data)


def open_shop(settings: Settings, chats: httpx2.AsyncClient) -> Shop:
    """Load users and products, and the saved orders."""
    data = json.loads((HERE / "data.json").read_text())
    if settings.data and settings.data.exists():
        orders = [Order(**fields) for fields in json.loads(settings.data.read_text())]
    else:
        orders = [_placed(**fields) for fields in data["orders"]]
    users = [User(**fields) for fields in data["users"]]
    shop = Shop(
        settings, chats, {user.id: user for user in users}, {order.id: order for order in orders}, data["products"]
    )
    keep(shop)
    return shop


def _placed(days_ago: int, **fields: Any) -> Order:
    placed = datetime.now(UTC) - timedelta(days=days_ago)
    return Order(**fields, placed_at=placed.isoformat(), updated_at=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat()


# --- The process


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings, or exit with a message about a missing one."""
    given = {name: value for name, value in environment.items() if value}
    if "CHATS_AUTH_SECRET" not in given:
        sys.exit("shop: set CHATS_AUTH_SECRET to the secret with which Customer Chats verifies tokens")
    host, port = given.get("SHOP_HOST", "127.0.0.1"), int(given.get("SHOP_PORT", "8011"))
    return Settings(
        auth_secret=given["CHATS_AUTH_SECRET"].split(",")[0].strip(),  # there are two during a rotation
        chats_url=given.get("CHATS_URL", "http://127.0.0.1:8000").rstrip("/"),
        audience=given.get("CHATS_AUTH_AUDIENCE", "chats").partition(",")[0].strip(),
        issuer=given.get("CHATS_AUTH_ISSUER"),
        name=given.get("CHATS_STORE_NAME", "Demo Store"),
        host=host,
        port=port,
        url=given.get("SHOP_URL", f"http://{host}:{port}"),
        session_secret=given.get("SHOP_SECRET") or secrets.token_hex(32),  # a new one signs all users out
        data=Path(given["SHOP_DATA"]) if "SHOP_DATA" in given else None,
    )


def create_app(settings: Settings) -> Starlette:
    """Create the application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=settings.chats_url, timeout=5) as chats:
            app.state.shop = open_shop(settings, chats)
            sync = asyncio.create_task(keep_in_step(app.state.shop))
            yield
            sync.cancel()

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
    settings = read_settings(os.environ)
    app = create_app(settings)
    uvicorn.run(
        app, host=settings.host, port=settings.port, access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
