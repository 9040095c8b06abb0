"""How a page is made: its templates, its headers, and what is shown when something is wrong."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from babel.support import NullTranslations
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from services.conversations.rules import BODY_LENGTH, COUNT_LIMIT
from services.conversations.settings import ApiSettings
from services.conversations.web import assets
from services.conversations.web.auth import PageContext
from services.conversations.web.links import linked
from services.conversations.web.localization import Reader
from shared.problems import Forbidden, Invalid, NotFound, Problem, Unauthenticated
from shared.translations import find_language, install_translations

LOCALE = Path(__file__).parent / "locale"
CUSTOMER_ROOT = "/dashboard/messages/"
ADMIN_ROOT = "/admin/dashboard/conversation/"
_ROOTS = (CUSTOMER_ROOT, ADMIN_ROOT, "/session")


class Page(HTMLResponse):
    """A page that is rendered as it is sent: after its request's transaction, whose connection others wait for."""

    def __init__(self, template: Template, context: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status, headers)
        self._template, self._context = template, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Render and send the page."""
        self.body = self._template.render(self._context).encode()
        self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


class Pages:
    """Renders pages. One for a process, made with its settings."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._theme = assets.Theme.read(settings.theme_dir)
        self._static = f"{assets.PREFIX}/{assets.version()}"
        self._stylesheet = assets.stylesheet(self._theme)
        find_language(LOCALE, [])  # a broken catalogue is told of at the start
        self._environments: dict[NullTranslations, Environment] = {}
        self._headers = {
            "Cache-Control": "no-store",  # the next person at this browser must not find it by the back button
            "Content-Security-Policy": _policy(settings, self._stylesheet),
            "Referrer-Policy": "same-origin",
        }

    def reader(self, visitor: PageContext | None) -> Reader:
        """Return how a visitor reads: words, times and amounts."""
        principal = visitor.principal if visitor else None
        locale, zone = (principal.locale, principal.zoneinfo) if principal else (None, None)
        language = find_language(LOCALE, [locale, self._settings.locale])
        return Reader(language, ZoneInfo(zone or self._settings.time_zone), datetime.now(UTC))

    def render(
        self,
        template: str,
        visitor: PageContext | None,
        *,
        status: int = HTTPStatus.OK,
        refusal: Problem | None = None,
        **context: Any,
    ) -> Page:
        """Make a page for a visitor, or for somebody who is not known; a refusal gives it its status and headers."""
        reader = self.reader(visitor)
        page = self._environment(reader.language.translations).get_template(template)
        context |= {"visitor": visitor, "reader": reader, "refusal": refusal}
        position = {"X-Position": visitor.position} if visitor else {}
        said = (refusal.headers or {}) if refusal else {}
        return Page(page, context, refusal.status if refusal else int(status), {**self._headers, **position, **said})

    def _environment(self, translations: NullTranslations) -> Environment:
        """Return the templates in a language; they are compiled with its words."""
        if translations not in self._environments:
            self._environments[translations] = self._new_environment(translations)
        return self._environments[translations]

    def _new_environment(self, translations: NullTranslations) -> Environment:
        environment = Environment(
            loader=PackageLoader(__package__),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        install_translations(environment, translations)
        environment.filters["linked"] = linked
        environment.globals |= {
            "BODY_LENGTH": BODY_LENGTH,
            "COUNT_LIMIT": COUNT_LIMIT,
            "admin_root": ADMIN_ROOT,
            "customer_root": CUSTOMER_ROOT,
            "logo": self._theme.logo and f"{assets.PREFIX}/{self._theme.logo}",
            "static": self._static,
            "store_name": self._settings.store_name,
            "store_url": self._settings.store_url,
            "stylesheet": self._stylesheet,
            "theme": self._theme,
        }
        return environment

    def refuse(self, request: Request, problem: Problem) -> Response:
        """Make the page that says what is wrong; without a session, the way to one."""
        visitor: PageContext | None = getattr(request.state, "visitor", None)
        login = self._settings.login_url
        if isinstance(problem, Unauthenticated) and login and request.url.path.startswith((CUSTOMER_ROOT, ADMIN_ROOT)):
            return redirect(f"{login}{'&' if urlsplit(login).query else '?'}next={quote(_wanted(request), safe='')}")
        refused = problem.__cause__ if isinstance(problem.__cause__, Problem) else problem
        is_sign_in = request.url.path == "/session" and isinstance(refused, Unauthenticated)
        return self.render(
            "error.html", visitor, refusal=problem, refused=refused, sign_in=refused if is_sign_in else None
        )

    def render_html_error(self, request: Request, error: Problem | HTTPException) -> Response | None:
        """Make the page that says what was wrong before any route was found, or that we crashed, where pages are."""
        return self.refuse(request, _problem(error)) if request.scope["path"].startswith(_ROOTS) else None


class PageRoute(APIRoute):
    """A route whose errors are pages. A conversation that was removed, and one of others, are one and the same."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap what the framework does with a request."""
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except (Problem, RequestValidationError, HTTPException) as error:
                if isinstance(error.__cause__, ClientDisconnect):
                    raise  # there is nobody to explain it to
                return pages_of(request).refuse(request, _problem(error))

        return handle_or_explain


def pages_of(request: Request) -> Pages:
    """Return what renders this application's pages."""
    pages: Pages = request.app.state.pages
    return pages


def redirect(url: str) -> RedirectResponse:
    """Lead to another page, by GET."""
    return RedirectResponse(url, HTTPStatus.SEE_OTHER)


async def add_slash(request: Request) -> Response:
    """Lead to the address that ends in a slash."""
    query = f"?{request.url.query}" if request.url.query else ""
    return redirect(f"{request.url.path}/{query}")


def _wanted(request: Request) -> str:
    """Return the page to come back to; a form's own address has a page, too."""
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    return f"{request.url.path}{query}"


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        known = {kind.status: kind for kind in (NotFound, Forbidden)}.get(HTTPStatus(error.status_code))
        return known(error.detail) if known else _Other(error)
    assert isinstance(error, RequestValidationError)  # noqa: S101 - nothing else is caught
    faults = error.errors()
    if any(fault["loc"][0] == "path" for fault in faults):
        return NotFound("There is nothing at this address.")
    return Invalid(faults[0]["msg"], faults[0]["loc"])


class _Other(Problem):
    """What the framework refuses by a status."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(error.detail)
        self.status = HTTPStatus(error.status_code)  # type: ignore[misc] # each one its own
        self.title = self.status.phrase  # type: ignore[misc]
        self.headers = error.headers  # type: ignore[misc]


def _policy(settings: ApiSettings, stylesheet: str) -> str:
    """Return the pages' Content-Security-Policy: their own scripts, their own style, and nobody else."""
    # A form may end in a redirect, which browsers hold to the same rule.
    targets = sorted({_origin(url) for url in (settings.login_url, settings.store_url) if url})
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            f"style-src {assets.source_hash(stylesheet)}",
            "img-src 'self'",
            "font-src 'self'",
            "connect-src 'self'",
            " ".join(["form-action 'self'", *targets]),
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
