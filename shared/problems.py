"""Errors as `application/problem+json` (RFC 9457): a small family of exceptions and the one place that answers."""

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

MAX_FAULTS = 20  # that one answer tells of

_SAFE = frozenset({"get", "head", "options"})  # a session's cookie alone suffices
_CLIENT_HUNG_UP = 499  # as proxies log it; nobody reads the answer
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = structlog.get_logger()


class FieldError(BaseModel):
    """Where a request is wrong, and how."""

    loc: list[str | int]
    msg: str


class ProblemBody(BaseModel):
    """An error answer. Some codes add members of their own."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] | None = None


class Problem(Exception):  # noqa: N818 - its kinds are named for what they say
    """An error with a stable code. `extra` adds members to the answer, `headers` to the response."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    headers: ClassVar[Mapping[str, str] | None] = None
    example: ClassVar[Mapping[str, Any]] = {}  # of further members, for the API document

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


Explain = Callable[[Request, Problem | HTTPException], Response | None]
"""Answers in another way than as problem+json what was raised outside of the routes, or leaves it by None."""


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
    """No valid token came with the request."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"
    title = "Not authenticated"
    headers: ClassVar[Mapping[str, str] | None] = {"WWW-Authenticate": "Bearer"}
    example: ClassVar[Mapping[str, Any]] = {"reason": "expired"}
    claim = ""  # of a token: which one is missing or cannot be used


class TokenRefused(Unauthenticated):
    """A token that does not count. `detail` and `reason` say why and hold no part of it."""

    def __init__(self, detail: str, reason: TokenReason, claim: str = "") -> None:
        super().__init__(detail, reason=reason)
        self.reason = reason
        self.claim = claim


class Forbidden(Problem):
    """The token is valid, its role may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"
    title = "Forbidden"


class CsrfFailed(Forbidden):
    """A browser sent the session's cookie, and nothing shows that a page of ours made it do so."""

    code = "csrf-failed"
    title = "The request does not come from a page of this origin"


class NotFound(Problem):
    """There is no such thing, or it is not the caller's: the same answer, so that nobody learns which."""

    status = HTTPStatus.NOT_FOUND
    code = "not-found"
    title = "Not found"


class Invalid(Problem):
    """A request that is well formed and wrong, told by field."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "validation-failed"
    title = "Validation failed"
    example: ClassVar[Mapping[str, Any]] = {"errors": [{"loc": ["body", "field"], "msg": "What is wrong."}]}

    def __init__(self, msg: str, loc: Sequence[str | int]) -> None:
        super().__init__(msg, errors=[{"loc": list(loc), "msg": msg}])


class UnknownParameter(Invalid):
    """A query parameter that the operation does not have, most likely misspelled: ignored, it would not filter."""

    code = "unknown-parameter"
    title = "Unknown query parameter"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown parameter; known here: {', '.join(known) or 'none'}", ("query", name))


def invalid_fields(faults: Sequence[Mapping[str, Any]]) -> Invalid:
    """Tell what pydantic finds wrong; the `loc` of each fault begins with the part of the request that it is in.

    Of very many faults only the first are told: an answer is never much larger than its request.
    """
    # The offending input is left out: it may hold text that belongs in no log and no answer.
    errors = [{"loc": list(fault["loc"]), "msg": message_of(fault)} for fault in faults[:MAX_FAULTS]]
    if more := len(faults) - len(errors):
        errors.append({"loc": ["body"], "msg": f"There are {more} more errors."})
    detail = "; ".join(f"{'.'.join(map(str, fault['loc'][1:])) or fault['loc'][0]}: {fault['msg']}" for fault in errors)
    problem = Invalid(detail, ())
    problem.extra["errors"] = errors
    return problem


def message_of(fault: Mapping[str, Any]) -> str:
    """Return what a fault that pydantic found says. Of a text that was trimmed first, it would count "items"."""
    limits = fault.get("ctx", {})
    if limits.get("field_type") == "Value" and fault["type"] == "too_long":
        return f"must have at most {limits['max_length']} characters, not {limits['actual_length']}"
    if limits.get("field_type") == "Value" and fault["type"] == "too_short":
        return "must not be empty"
    return str(fault["msg"]).removeprefix("Value error, ")


class Unavailable(Problem):
    """Something that this needs is away for the moment."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
    title = "Unavailable"
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "5"}


class MethodNotAllowed(Problem):
    """Only declares the answer in OpenAPI; the router raises it itself."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method-not-allowed"
    title = "Method not allowed"


class RequestTimeout(Problem):
    """Only declares the answer in OpenAPI: what a framework reads a body with takes other exceptions for bad JSON."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request-timeout"
    title = "The body did not arrive in time"


class PayloadTooLarge(Problem):
    """The body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "payload-too-large"
    title = "Payload too large"


class UrlTooLong(Problem):
    """The path and the query are over the limit."""

    status = HTTPStatus.REQUEST_URI_TOO_LONG
    code = "url-too-long"
    title = "URL too long"


class HeadersTooLarge(Problem):
    """The headers, with their cookies and tokens, are over the limit."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "headers-too-large"
    title = "Headers too large"


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """Declare in OpenAPI the problems a route can answer with."""
    by_status: dict[int | str, dict[str, Any]] = {}
    if Invalid in problems:  # `shared.http.ApiRoute` refuses what none of the routes has
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


def install(app: FastAPI, explain: Explain | None = None) -> None:
    """Let every error of this application be answered as problem+json, but for what `explain` answers."""
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_middleware(UnhandledErrorMiddleware, explain or (lambda _, __: None))
    build = app.openapi

    def document() -> dict[str, Any]:
        built = build()
        schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        built["components"]["schemas"] |= {**schema.pop("$defs"), "ProblemBody": schema}
        api = (methods for path, methods in built["paths"].items() if path.startswith("/api/"))  # pages say it in HTML
        for method, operation in (item for methods in api for item in methods.items()):
            more: list[type[Problem]] = [UrlTooLong, HeadersTooLarge]
            more += [RequestTimeout, PayloadTooLarge] if "requestBody" in operation else []
            more += [Forbidden, CsrfFailed] if method not in _SAFE and "403" in operation["responses"] else []
            operation["responses"] |= {str(status): said for status, said in problem_responses(*more).items()}
        return built

    app.openapi = document  # type: ignore[method-assign] # as FastAPI's own documentation extends the document


class UnhandledErrorMiddleware:
    """ASGI middleware: what no handler took is answered here, inside the middleware that names and counts requests."""

    def __init__(self, app: ASGIApp, explain: Explain) -> None:
        self.app = app
        self._explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; an answer that has begun cannot be taken back."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            told = error if isinstance(error, Problem | HTTPException) else _note_crash(error)
            answer = self._explain(Request(scope), told) or _answer(told)
            await answer(scope, receive, send)


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
    # In ASCII: a field's name that is quoted here may be half of a character, which UTF-8 cannot carry.
    return Response(json.dumps(body), status_code=body["status"], headers=headers, media_type=MEDIA_TYPE)


async def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - registered for it alone
    return _problem(error)


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    if any(fault["loc"][0] == "path" and fault["type"] == "uuid_parsing" for fault in error.errors()):
        return await _answer_problem(request, NotFound("There is nothing with this id."))
    if isinstance(error.body, bytes):
        return await _answer_problem(request, Invalid("send JSON, with Content-Type: application/json", ("body",)))
    return _problem(invalid_fields(error.errors()))


async def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_HUNG_UP)


def _problem(error: Problem) -> Response:
    return _response(_body(error.status, error.code, error.title, error.detail, **error.extra), error.headers)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    if isinstance(error.__cause__, ClientDisconnect):  # FastAPI takes it for a body that cannot be read
        return await _answer_nobody(request, error)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's word for JSON that is no text, or nested without end
        return _problem(Invalid("the body cannot be read: send JSON in UTF-8", ("body",)))
    if error.headers and "Allow" in error.headers:  # of one route; a path may have several, a method each
        methods = _methods(request) or [error.headers["Allow"]]  # none of ours below a mount
        error.headers = {**error.headers, "Allow": ", ".join(methods)}
    return http_problem(error)


def _methods(request: Request) -> list[str]:
    """Return the methods that a request's path can be asked with."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.router.routes
    return [
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


def http_problem(error: HTTPException) -> Response:
    """Answer what the framework refuses by a status."""
    status = HTTPStatus(error.status_code)
    known = {problem.status: problem for problem in (NotFound, MethodNotAllowed, RequestTimeout, PayloadTooLarge)}.get(
        status
    )
    code = known.code if known else status.phrase.lower().replace(" ", "-")
    title = known.title if known else status.phrase
    return _response(_body(status, code, title, str(error.detail)), error.headers)


def _answer(error: Problem | HTTPException) -> Response:
    return _problem(error) if isinstance(error, Problem) else http_problem(error)


def _note_crash(error: Exception) -> Problem:
    log.error("request crashed", exc_info=error)
    return Problem("Something went wrong on our side.")
