"""Rendering of pages: templates, headers and error pages."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from babel.support import NullTranslations
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, Template
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from services.conversations.rules import BODY_LENGTH, COUNT_LIMIT
from services.conversations.settings import ApiSettings
from services.conversations.web import assets, framing
from services.conversations.web.auth import PageContext
from services.conversations.web.browser import browser_zone, preferred_locales
from services.conversations.web.links import linked
from services.conversations.web.localization import Reader
from services.conversations.web.searching import marked
from shared.api.body_size import MAX_BODY_BYTES, BodyTooLarge
from shared.api.routing import SingleParameters
from shared.auth.cookies import is_framed
from shared.auth.principal import Permission
from shared.problems import Forbidden, Invalid, NotFound, Problem, Unauthenticated
from shared.time_zones import known_zone
from shared.translations import ENGLISH, TranslatedEnvironment, find_language, read_catalogues

LOCALE = Path(__file__).parent / "locale"
CUSTOMER_ROOT = "/dashboard/messages/"
ADMIN_ROOT = "/admin/dashboard/conversation/"
OPERATIONS_ROOT = "/admin/operations/"
REPORTS_ROOT = "/admin/reports/"
AUDIT_ROOT = "/admin/audit/"
WEBHOOKS_ROOT = "/admin/webhooks/"
FILES_ROOT = "/attachments/"
# What differs in the pages of the frame: what their links and scripts start with.
_FRAMED: Mapping[str, Any] = {
    "framed": True,
    "calls": framing.ROOT,
    "customer_root": f"{framing.ROOT}/",
    "files_root": f"{framing.ROOT}{FILES_ROOT}",
}
_PAGES = (CUSTOMER_ROOT, ADMIN_ROOT, OPERATIONS_ROOT, REPORTS_ROOT, AUDIT_ROOT, WEBHOOKS_ROOT, FILES_ROOT)
_ROOTS = (*_PAGES, "/session", f"{framing.ROOT}/")


class Page(HTMLResponse):
    """A page that is rendered when it is sent, after its request has released the database connection."""

    def __init__(self, template: Template, context: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status, headers)
        self._template, self._context = template, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Render and send the page."""
        self.body = self._template.render(self._context).encode()
        self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


class Pages:
    """The renderer of pages. A process has one."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._theme = assets.Theme.read(settings.theme_dir)
        self._static = f"{assets.PREFIX}/{assets.version()}"
        self._stylesheet = assets.stylesheet(self._theme)
        catalogues = read_catalogues(LOCALE)  # fails at startup if one is broken
        self._locales = (settings.locale, ENGLISH.language, *sorted(catalogues))
        self._environments: dict[NullTranslations, Environment] = {}
        self._headers = {
            "Cache-Control": "no-store",  # the browser's next user must not see it with the back button
            "Content-Security-Policy": _policy(settings, self._stylesheet),
            "Referrer-Policy": "same-origin",
            "Vary": "Accept-Language",
        }
        framed_by = " ".join(settings.store_origins)
        policy = _policy(settings, self._stylesheet, framed_by or "'none'")
        self._framed_headers = {**self._headers, "Content-Security-Policy": policy}

    def reader(self, request: Request, page_context: PageContext | None) -> Reader:
        """Return the language and time zone of the user, else of the browser, else the defaults."""
        principal = page_context.principal if page_context else None
        locale, zone = (principal.locale, principal.zoneinfo) if principal else (None, None)
        preferred = preferred_locales(request, self._locales)
        language = find_language(LOCALE, [locale, *preferred, self._settings.locale])
        zones = [zone, browser_zone(request), self._settings.time_zone]
        return Reader(language, known_zone(zones), datetime.now(UTC))

    def render(
        self,
        request: Request,
        template: str,
        page_context: PageContext | None,
        *,
        status: int = HTTPStatus.OK,
        refusal: Problem | None = None,
        **context: Any,
    ) -> Page:
        """Return a page. `page_context` is None without a session; a refusal sets the status and headers."""
        framed = is_framed(request)
        reader = self.reader(request, page_context)
        page = self._environment(reader.language.translations).get_template(template)
        permissions = page_context.principal.permissions if page_context else frozenset()
        context |= {"page_context": page_context, "reader": reader, "refusal": refusal}
        if framed:
            context |= _FRAMED
        context |= {f"may_{permission}": permission in permissions for permission in Permission}
        if request.headers.get("sec-fetch-dest") == "empty":  # for a script, whose page has the style already
            context["stylesheet"] = ""
        position = {"X-Position": page_context.position} if page_context else {}
        headers = (refusal.headers or {}) if refusal else {}
        own = self._framed_headers if framed else self._headers
        return Page(page, context, refusal.status if refusal else int(status), {**own, **position, **headers})

    def _environment(self, translations: NullTranslations) -> Environment:
        """Return the environment of a language. Templates are compiled with its translations."""
        if translations not in self._environments:
            self._environments[translations] = self._new_environment(translations)
        return self._environments[translations]

    def _new_environment(self, translations: NullTranslations) -> Environment:
        environment = TranslatedEnvironment(translations, loader=PackageLoader(__package__))
        environment.filters["linked"] = linked
        environment.filters["marked"] = marked
        environment.globals |= {
            "BODY_LENGTH": BODY_LENGTH,
            "files_root": FILES_ROOT,
            "max_file_bytes": self._settings.attachment_max_bytes,
            "COUNT_LIMIT": COUNT_LIMIT,
            "admin_root": ADMIN_ROOT,
            "customer_root": CUSTOMER_ROOT,
            "framed": False,
            "calls": "",
            "store_origins": " ".join(self._settings.store_origins),
            "operations_root": OPERATIONS_ROOT,
            "reports_root": REPORTS_ROOT,
            "audit_root": AUDIT_ROOT,
            "webhooks_root": WEBHOOKS_ROOT,
            "logo": self._theme.logo and f"{assets.PREFIX}/{self._theme.logo}",
            "scripts": assets.scripts(),
            "static": self._static,
            "store_name": self._settings.store_name,
            "store_url": self._settings.store_url,
            "stylesheet": self._stylesheet,
            "theme": self._theme,
        }
        return environment

    def error_page(self, request: Request, problem: Problem) -> Response:
        """Return an error page, or a redirect to the login page if there is no session."""
        page_context: PageContext | None = getattr(request.state, "page_context", None)
        login = self._settings.login_url
        if isinstance(problem, Unauthenticated) and is_framed(request):  # the frame begins a session by itself
            return self.render(request, "messenger.html", None, refusal=problem)
        if isinstance(problem, Unauthenticated) and login and request.url.path.startswith(_PAGES):
            return redirect(
                f"{login}{'&' if urlsplit(login).query else '?'}next={quote(_return_path(request), safe='')}"
            )
        cause = problem.__cause__ if isinstance(problem.__cause__, Problem) else problem
        is_sign_in = request.url.path == "/session" and isinstance(cause, Unauthenticated)
        context: dict[str, Any] = {
            "cause": cause,
            "sign_in": cause if is_sign_in else None,
            "in_form": isinstance(problem, Invalid) and request.method == "POST" and not _is_about_url(problem),
            "is_about_conversation": request.url.path.startswith((CUSTOMER_ROOT, ADMIN_ROOT, f"{framing.ROOT}/")),
        }
        return self.render(request, "error.html", page_context, refusal=problem, **context)

    def render_html_error(self, request: Request, error: Problem | HTTPException) -> Response | None:
        """Return an error page for errors outside routes, or None if the path is not a page's.

        In the frame an unknown path has none: other sites may frame the messenger's own pages only.
        """
        is_page = request.scope["path"].startswith(_ROOTS)
        is_unknown = error.status_code == HTTPStatus.NOT_FOUND if isinstance(error, HTTPException) else False
        return None if not is_page or (is_unknown and is_framed(request)) else self.error_page(request, _problem(error))


class PageRoute(APIRoute):
    """A route that renders errors as pages. Deleted conversations and those of other customers look the same."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that renders errors."""
        handle, single = super().get_route_handler(), SingleParameters(self.dependant)

        async def handle_or_render_error(request: Request) -> Response:
            try:
                single.check(request.query_params)
                return await handle(request)
            except (Problem, RequestValidationError, HTTPException) as error:
                if isinstance(error.__cause__, ClientDisconnect):
                    raise  # the client is gone
                return pages_of(request).error_page(request, _problem(error))
            finally:
                await request.close()  # the temporary files of a form

        return handle_or_render_error


def pages_of(request: Request) -> Pages:
    """Return the application's page renderer."""
    pages: Pages = request.app.state.pages
    return pages


def redirect(url: str) -> RedirectResponse:
    """Redirect to another page with GET."""
    return RedirectResponse(url, HTTPStatus.SEE_OTHER)


def customer_root(request: Request) -> str:
    """Return the path of the customer's list, in the frame or on its own."""
    return str(_FRAMED["customer_root"]) if is_framed(request) else CUSTOMER_ROOT


async def add_slash(request: Request) -> Response:
    """Redirect to the path with a trailing slash."""
    query = f"?{request.url.query}" if request.url.query else ""
    return redirect(f"{request.url.path}/{query}")


def _return_path(request: Request) -> str:
    """Return the page to come back to after sign-in. A form's path has a page as well."""
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
        return NotFound("There is no page at this address.")
    return _Fault(faults[0])


def _is_about_url(problem: Invalid) -> bool:
    return bool(problem.extra["errors"][0]["loc"][0] == "query")


class _Fault(Invalid):
    """The first fault of a form or a query. `limit` is how long a text may be."""

    def __init__(self, fault: Mapping[str, Any]) -> None:
        super().__init__(fault["msg"], fault["loc"], fault["type"])
        self.limit = (fault.get("ctx") or {}).get("max_length")


class _Other(Problem):
    """An HTTPException of the framework."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(error.detail)
        self.status = HTTPStatus(error.status_code)  # type: ignore[misc] # differs by instance
        self.title = self.status.phrase  # type: ignore[misc]
        self.headers = error.headers  # type: ignore[misc]
        self.too_large_files = isinstance(error, BodyTooLarge) and error.limit > MAX_BODY_BYTES


def _policy(settings: ApiSettings, stylesheet: str, framed_by: str = "'none'") -> str:
    """Return the pages' Content-Security-Policy, which allows only our own scripts and style."""
    # Browsers apply form-action to redirects of a form as well.
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
            f"frame-ancestors {framed_by}",
        ]
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
