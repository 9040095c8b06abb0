"""The handlers that answer every error of an application with `application/problem+json`."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.problems import (
    MEDIA_TYPE,
    CsrfFailed,
    Forbidden,
    HeadersTooLarge,
    Invalid,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    ProblemBody,
    RequestTimeout,
    UrlTooLong,
    invalid_fields,
    problem_body,
    problem_responses,
)

_SAFE = frozenset({"get", "head", "options"})  # need no CSRF token
_CLIENT_HUNG_UP = 499  # as proxies log it
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = structlog.get_logger()

RenderError = Callable[[Request, Problem | HTTPException], Response | None]
"""Renders an error that was raised outside the routes, or returns None for problem+json."""


def install(app: FastAPI, render_error: RenderError | None = None) -> None:
    """Answer every error of an application with problem+json, unless `render_error` returns a response."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    render = render_error or (lambda _, __: None)

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - the handler's only type
        is_unknown_path = error.status_code == HTTPStatus.NOT_FOUND
        return (render(request, error) if is_unknown_path else None) or await _answer_http(request, error)

    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_disconnected)
    app.add_middleware(UnhandledErrorMiddleware, render)
    build = app.openapi

    def document() -> dict[str, Any]:
        built = build()
        schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        built["components"]["schemas"] |= {**schema.pop("$defs"), "ProblemBody": schema}
        api = (
            methods for path, methods in built["paths"].items() if path.startswith("/api/")
        )  # pages answer with HTML
        for method, operation in (item for methods in api for item in methods.items()):
            more: list[type[Problem]] = [UrlTooLong, HeadersTooLarge]
            more += [RequestTimeout, PayloadTooLarge] if "requestBody" in operation else []
            more += [Forbidden, CsrfFailed] if method not in _SAFE and "403" in operation["responses"] else []
            operation["responses"] |= {str(status): response for status, response in problem_responses(*more).items()}
        return built

    app.openapi = document  # type: ignore[method-assign] # as in FastAPI's documentation


class UnhandledErrorMiddleware:
    """ASGI middleware that answers unhandled errors, inside the middleware that logs and counts requests."""

    def __init__(self, app: ASGIApp, render_error: RenderError) -> None:
        self.app = app
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Once a response has started, its error can only be raised."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            problem = error if isinstance(error, Problem | HTTPException) else _log_crash(error)
            response = self._render_error(Request(scope), problem) or _answer(problem)
            await response(scope, receive, send)


def _response(body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    # In ASCII: a field name in it may contain a lone surrogate, which UTF-8 cannot encode.
    return Response(json.dumps(body), status_code=body["status"], headers=headers, media_type=MEDIA_TYPE)


async def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - the handler's only type
    return _problem(error)


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the handler's only type
    if any(fault["loc"][0] == "path" and fault["type"] == "uuid_parsing" for fault in error.errors()):
        return await _answer_problem(request, NotFound("There is no resource with this id."))
    if isinstance(error.body, bytes):
        return await _answer_problem(request, Invalid("send JSON, with Content-Type: application/json", ("body",)))
    return _problem(invalid_fields(error.errors()))


async def _answer_disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_HUNG_UP)


def _problem(error: Problem) -> Response:
    return _response(problem_body(error.status, error.code, error.title, error.detail, **error.extra), error.headers)


async def _answer_http(request: Request, error: HTTPException) -> Response:
    if isinstance(error.__cause__, ClientDisconnect):  # FastAPI reports it as an unreadable body
        return await _answer_disconnected(request, error)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's status for undecodable or too deeply nested JSON
        return _problem(Invalid("the body cannot be read: send JSON in UTF-8", ("body",)))
    if error.headers and "Allow" in error.headers:  # has one route's methods; a path may have several routes
        methods = _methods(request) or [error.headers["Allow"]]  # a mount has no routes of ours
        error.headers = {**error.headers, "Allow": ", ".join(methods)}
    return http_problem(error)


def _methods(request: Request) -> list[str]:
    """Return the methods that a request's path accepts."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.router.routes
    return [
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


def http_problem(error: HTTPException) -> Response:
    """Convert an HTTPException of the framework to problem+json."""
    status = HTTPStatus(error.status_code)
    known = {problem.status: problem for problem in (NotFound, MethodNotAllowed, RequestTimeout, PayloadTooLarge)}.get(
        status
    )
    code = known.code if known else status.phrase.lower().replace(" ", "-")
    title = known.title if known else status.phrase
    return _response(problem_body(status, code, title, str(error.detail)), error.headers)


def _answer(error: Problem | HTTPException) -> Response:
    return _problem(error) if isinstance(error, Problem) else http_problem(error)


def _log_crash(error: Exception) -> Problem:
    log.error("request crashed", exc_info=error)
    return Problem("An unexpected error occurred on the server.")
