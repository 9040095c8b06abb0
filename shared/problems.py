"""Errors as `application/problem+json` (RFC 9457): the exceptions and their handlers."""

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Literal

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TYPE_PREFIX = "tag:customer-chats,2026:problem/"
MEDIA_TYPE = "application/problem+json"

MAX_FAULTS = 20  # field errors in one response

_SAFE = frozenset({"get", "head", "options"})  # need no CSRF token
_CLIENT_HUNG_UP = 499  # as proxies log it
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = structlog.get_logger()


class FieldError(BaseModel):
    """What is wrong with a request, and in which field."""

    loc: list[str | int]
    msg: str


class ProblemBody(BaseModel):
    """An error response. Some codes add members of their own."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] | None = None


class Problem(Exception):  # noqa: N818 - subclasses are named after their code
    """An error with a stable code. `extra` adds members to the body."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    headers: ClassVar[Mapping[str, str] | None] = None
    example: ClassVar[Mapping[str, Any]] = {}  # further members, for the API document

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


RenderError = Callable[[Request, Problem | HTTPException], Response | None]
"""Renders an error that was raised outside of the routes, or returns None for problem+json."""


TokenReason = Literal[
    "expired",
    "not_yet_valid",
    "bad_signature",
    "wrong_audience",
    "wrong_issuer",
    "missing_claim",
    "unknown_key",
    "unknown_role",
    "malformed",
]


class Unauthenticated(Problem):
    """The request has no valid token."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"
    title = "Not authenticated"
    headers: ClassVar[Mapping[str, str] | None] = {"WWW-Authenticate": "Bearer"}
    example: ClassVar[Mapping[str, Any]] = {"reason": "expired"}
    claim = ""  # the token's claim that is missing or invalid


class TokenRefused(Unauthenticated):
    """The token is not accepted. `detail` and `reason` say why, without any part of the token."""

    def __init__(self, detail: str, reason: TokenReason, claim: str = "") -> None:
        super().__init__(detail, reason=reason)
        self.reason = reason
        self.claim = claim


class Forbidden(Problem):
    """The token is valid, but its role is not allowed to do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"
    title = "Forbidden"


class CsrfFailed(Forbidden):
    """A request with the session's cookie has no proof that one of our own pages sent it."""

    code = "csrf-failed"
    title = "CSRF check failed"


class NotFound(Problem):
    """The resource does not exist or is not the caller's. Both have one answer, so that callers cannot probe."""

    status = HTTPStatus.NOT_FOUND
    code = "not-found"
    title = "Not found"


class Invalid(Problem):
    """The request is well formed, but a field is invalid."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "validation-failed"
    title = "Validation failed"
    example: ClassVar[Mapping[str, Any]] = {"errors": [{"loc": ["body", "field"], "msg": "What is wrong."}]}

    def __init__(self, msg: str, loc: Sequence[str | int], field_code: str | None = None) -> None:
        """`field_code` names the fault of a single field, for pages that say it in their own words."""
        super().__init__(msg, errors=[{"loc": list(loc), "msg": msg}])
        self.field_code = field_code


class UnknownParameter(Invalid):
    """The operation has no such query parameter. Ignoring a misspelled filter would return too much."""

    code = "unknown-parameter"
    title = "Unknown query parameter"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown parameter; this operation accepts: {', '.join(known) or 'none'}", ("query", name))


def invalid_fields(faults: Sequence[Mapping[str, Any]]) -> Invalid:
    """Convert pydantic's errors; the `loc` of each begins with the part of the request, such as `body`.

    Only the first MAX_FAULTS are listed, so that a response is never much larger than its request.
    """
    # The invalid input is left out: it may be private text.
    errors = [{"loc": list(fault["loc"]), "msg": message_of(fault)} for fault in faults[:MAX_FAULTS]]
    if more := len(faults) - len(errors):
        errors.append({"loc": ["body"], "msg": f"There are {more} more errors."})
    detail = "; ".join(f"{'.'.join(map(str, error['loc'][1:])) or error['loc'][0]}: {error['msg']}" for error in errors)
    problem = Invalid(detail, ())
    problem.extra["errors"] = errors
    return problem


def message_of(fault: Mapping[str, Any]) -> str:
    """Return the message of a pydantic error. Of text that was trimmed first, pydantic counts "items"."""
    limits = fault.get("ctx", {})
    if limits.get("field_type") == "Value" and fault["type"] == "too_long":
        return f"must have at most {limits['max_length']} characters, not {limits['actual_length']}"
    if limits.get("field_type") == "Value" and fault["type"] == "too_short":
        return "must not be empty"
    return str(fault["msg"]).removeprefix("Value error, ")


class Unavailable(Problem):
    """A dependency, such as the database, is temporarily unavailable."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
    title = "Unavailable"
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "5"}


class MethodNotAllowed(Problem):
    """Declares the response in OpenAPI; the router raises its own exception."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method-not-allowed"
    title = "Method not allowed"


class RequestTimeout(Problem):
    """Declares the response in OpenAPI. Raised as HTTPException: FastAPI treats other exceptions as invalid JSON."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request-timeout"
    title = "Request timeout"


class PayloadTooLarge(Problem):
    """The body is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "payload-too-large"
    title = "Payload too large"


class UrlTooLong(Problem):
    """The path and query are longer than the limit."""

    status = HTTPStatus.REQUEST_URI_TOO_LONG
    code = "url-too-long"
    title = "URL too long"


class HeadersTooLarge(Problem):
    """The headers, including cookies and tokens, are larger than the limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "headers-too-large"
    title = "Headers too large"


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for the problems of a route."""
    by_status: dict[int | str, dict[str, Any]] = {}
    if Invalid in problems:  # `shared.http.ApiRoute` rejects unknown parameters
        problems = (*problems, UnknownParameter)
    for status in sorted({int(problem.status) for problem in problems}):
        codes = [problem for problem in problems if problem.status == status]
        by_status[status] = {
            "description": "; ".join(f"`{problem.code}`: {problem.title.lower()}" for problem in codes),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemBody"},
                    "examples": {
                        problem.code: {
                            "value": _body(
                                problem.status, problem.code, problem.title, "What is wrong.", **problem.example
                            )
                        }
                        for problem in codes
                    },
                }
            },
        }
    return by_status


def install(app: FastAPI, render_error: RenderError | None = None) -> None:
    """Answer every error of an application with problem+json, unless `render_error` returns a response."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_disconnected)
    app.add_middleware(UnhandledErrorMiddleware, render_error or (lambda _, __: None))
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


def _body(status: int, code: str, title: str, detail: str, **extra: Any) -> dict[str, Any]:
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": int(status),
        "detail": detail,
        "code": code,
        **extra,
    }


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
    return _response(_body(error.status, error.code, error.title, error.detail, **error.extra), error.headers)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's only type
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
    return _response(_body(status, code, title, str(error.detail)), error.headers)


def _answer(error: Problem | HTTPException) -> Response:
    return _problem(error) if isinstance(error, Problem) else http_problem(error)


def _log_crash(error: Exception) -> Problem:
    log.error("request crashed", exc_info=error)
    return Problem("An unexpected error occurred on the server.")
