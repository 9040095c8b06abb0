"""A store on a site of its own, with a button to enter the chats, a login page and fresh tokens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from shared.auth.tokens import issue_token
from shared.process.running import create_server
from shared.settings import TokenSettings
from tests.helpers.waiting import eventually


@dataclass
class Store:
    """A store at `url` that signs tokens for the product at `chats`."""

    url: str
    chats: str
    settings: TokenSettings
    documented: dict[str, str] = field(default_factory=dict)  # the snippets of docs/embedding.md, by language
    visitor: str = ""  # who is signed in on the page with these

    def app(self) -> ASGIApp:
        return Starlette(
            routes=[
                Route("/", self._home),
                Route("/login", self._login),
                Route("/enter", self._enter),
                Route("/token", self._token),
                Route("/shop", self._shop),
                Route("/chats-token", self._token),
                Route("/documented", self._documented),
                Route("/documented.css", self._documented_style),
                Route("/orders/{number}", self._home),
            ]
        )

    def entry_url(self, sub: str, role: str, next_path: str) -> str:
        """Return the URL of the page with the button that enters the chats."""
        return f"{self.url}/enter?{urlencode({'sub': sub, 'role': role, 'next': next_path})}"

    def token(self, sub: str, role: str) -> str:
        permissions = ["delete", "reports", "audit", *(["operations"] if sub.startswith("olga") else [])]
        return issue_token(self.settings, {"sub": sub, "role": role, "permissions": permissions}, timedelta(minutes=5))

    async def _home(self, request: Request) -> Response:
        badge = ""
        if sub := request.query_params.get("sub"):
            source = escape(f"{self.chats}/chats-static/badge.js")
            badge = f"""<script type="module" src="{source}"></script>
                <a href="{self.chats}/dashboard/messages/">Messages
                <chats-badge token-url="/token?sub={escape(sub)}"></chats-badge></a>"""
        return _page("Store", f"<h1>The store</h1>{badge}")

    def shop_url(self, sub: str, order: str = "") -> str:
        """Return the URL of a page with the messenger."""
        return f"{self.url}/shop?{urlencode({'sub': sub, 'order': order})}"

    async def _shop(self, request: Request) -> Response:
        sub, order = (escape(request.query_params.get(name, "")) for name in ("sub", "order"))
        policy = f"default-src 'none'; script-src {self.chats}; connect-src 'self' {self.chats}; img-src data:"
        html = f"""<!doctype html><html lang="en"><title>Store</title><link rel="icon" href="data:,">
            <meta name="viewport" content="width=device-width">
            <script type="module" src="{self.chats}/chats-static/messenger.js"></script>
            <main><h1>The store</h1>
            <p>Messages <chats-badge token-url="/token?sub={sub}"></chats-badge></p>
            <p><a href="/orders/7" data-chats-open="{order}">Ask about this order</a></p></main>
            <chats-messenger token-url="/token?sub={sub}" {f'order-id="{order}"' if order else ""}></chats-messenger>"""
        policy += f"; frame-src {self.chats}/messenger/; base-uri 'none'; require-trusted-types-for 'script'"
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    async def _documented(self, _: Request) -> Response:
        html = f"""<!doctype html><html lang="en"><title>Store</title><link rel="icon" href="data:,">
            <link rel="stylesheet" href="/documented.css"><main><h1>The store</h1>{self.documented["html"]}</main>"""
        documented = " ".join(self.documented["text"].split())
        policy = f"default-src 'none'; img-src data:; style-src 'self'; {documented}"
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    async def _documented_style(self, _: Request) -> Response:
        return Response(self.documented["css"], media_type="text/css")

    async def _login(self, request: Request) -> Response:
        return _page("Sign in", f"<h1>Sign in to the store</h1><p>{escape(request.query_params.get('next', ''))}</p>")

    async def _enter(self, request: Request) -> Response:
        params = request.query_params
        fields = {"token": self.token(params["sub"], params["role"]), "next": params["next"]}
        inputs = "".join(f'<input type="hidden" name="{name}" value="{escape(text)}">' for name, text in fields.items())
        form = f'<form method="post" action="{self.chats}/session">{inputs}<button>To my messages</button></form>'
        return _page("Store", form)

    async def _token(self, request: Request) -> Response:
        sub = request.query_params.get("sub", self.visitor)
        return JSONResponse({"token": self.token(sub, "customer")}) if sub else Response(status_code=401)


@contextlib.asynccontextmanager
async def served(app: ASGIApp, port: int) -> AsyncIterator[None]:
    """Serve an application on loopback, within this process."""
    running = create_server(app, "127.0.0.1", port)
    running.config.timeout_graceful_shutdown = 1
    running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(running.serve())
    await eventually(lambda: running.started)
    try:
        yield
    finally:
        running.should_exit = True
        await task


def _page(title: str, content: str) -> Response:
    return HTMLResponse(f'<!doctype html><title>{title}</title><link rel="icon" href="data:,">{content}')
