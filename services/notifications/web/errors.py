"""Errors of this service's pages, as pages."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from jinja2 import PackageLoader
from starlette.exceptions import HTTPException

from shared.api.app_state import app_state
from shared.api.routing import SingleParametersRoute
from shared.problems import Problem
from shared.translations import TranslatedEnvironment, find_language

LOCALE = Path(__file__).parent / "locale"
ROOT = "/notifications/"
STYLE = "/chats-static/chats.css"  # of the conversations service, as is the page behind the button
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


class PageRoute(SingleParametersRoute):
    """A route that renders errors as pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that renders errors."""
        handle = super().get_route_handler()

        async def handle_or_render_error(request: Request) -> Response:
            try:
                return await handle(request)
            except (Problem, RequestValidationError) as error:
                return _error_page(request, error)

        return handle_or_render_error


def render_html_error(request: Request, error: Problem | HTTPException) -> Response | None:
    """Return an error page for errors outside routes, or None if the path is not a page's."""
    return _error_page(request, error) if request.scope["path"].startswith(ROOT) else None


def accepted_languages(request: Request) -> list[str]:
    """Return the languages that the browser accepts, as it sent them."""
    return [name.partition(";")[0].strip() for name in request.headers.get("Accept-Language", "").split(",")[:20]]


def _error_page(request: Request, error: Problem | HTTPException | RequestValidationError) -> Response:
    if isinstance(error, RequestValidationError):
        status, code, headers = int(HTTPStatus.UNPROCESSABLE_ENTITY), "", None
    else:
        status = error.status if isinstance(error, Problem) else error.status_code
        code, headers = error.code if isinstance(error, Problem) else "", error.headers
    language = find_language(LOCALE, [request.query_params.get("locale"), *accepted_languages(request)])
    environment = TranslatedEnvironment(language.translations, loader=PackageLoader(__package__))
    html = environment.get_template("error.html").render(
        language=language.locale.language,
        store_name=app_state(request).settings.store_name,
        style=STYLE,
        status=status,
        code=code,
    )
    return HTMLResponse(html, status, {**(headers or {}), "Content-Security-Policy": POLICY})
