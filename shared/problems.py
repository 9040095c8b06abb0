"""Errors as `application/problem+json` (RFC 9457): the exceptions, and their responses in the API document."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

TYPE_PREFIX = "tag:customer-chats,2026:problem/"
MEDIA_TYPE = "application/problem+json"

MAX_FAULTS = 20  # field errors in one response


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
    """An error with a stable code. `extra` adds members to the body.

    The API document gives the docstring's first line as its cause, and `remedy` as what the caller can do.
    """

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    remedy: ClassVar[str] = ""
    headers: ClassVar[Mapping[str, str] | None] = None
    example: ClassVar[Mapping[str, Any]] = {}  # further members, for the API document

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


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
    """The request has no valid token. `reason` says why a token was refused."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"
    title = "Not authenticated"
    remedy = "Send a current token in `Authorization: Bearer …`. If `reason` is `expired`, get a new one."
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
    """The token is valid, but its role or permissions do not allow this call."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"
    title = "Forbidden"
    remedy = "Call with a token of the role, and with the permission, that the call names."


class MissingPermission(Forbidden):
    """An admin lacks a permission."""

    def __init__(self, permission: str) -> None:
        super().__init__(f"This needs the permission {permission} (CHATS_AUTH_PERMISSIONS_CLAIM).")
        self.permission = permission


class RoleWithdrawn(Forbidden):
    """A token or a session is an admin's, but the store has since synced another role."""

    withdrawn = True

    def __init__(self, claimed: str, synced: str) -> None:
        super().__init__(f"The token's role is {claimed}, but the store has since changed it to {synced}.")


class CsrfFailed(Forbidden):
    """A request with the session's cookie has no proof that one of our own pages sent it."""

    code = "csrf-failed"
    title = "CSRF check failed"
    remedy = "Send the session's CSRF token in `X-CSRF-Token`. With a bearer token this cannot happen."


class NotFound(Problem):
    """It does not exist, or it belongs to another customer: both have the same answer."""

    status = HTTPStatus.NOT_FOUND
    code = "not-found"
    title = "Not found"
    remedy = "Check the id, and whose token you send. After a deletion, forget the id."


class Invalid(Problem):
    """A parameter or a field of the body is missing or invalid. `errors` names each one."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "validation-failed"
    title = "Validation failed"
    remedy = "Correct the fields in `errors`. The same request would fail again."
    example: ClassVar[Mapping[str, Any]] = {"errors": [{"loc": ["body", "field"], "msg": "What is wrong."}]}

    def __init__(self, msg: str, loc: Sequence[str | int], field_code: str | None = None) -> None:
        """`field_code` names the fault of a single field, for pages that say it in their own words."""
        super().__init__(msg, errors=[{"loc": list(loc), "msg": msg}])
        self.field_code = field_code


class EventsPurged(Problem):
    """The log no longer has the events after the reader's position. Read the snapshot instead."""

    status = HTTPStatus.GONE
    code = "events-purged"
    title = "These events have been purged"
    remedy = "Read the snapshot, then go on from its position."


class UnknownParameter(Invalid):
    """The call has no such query parameter: ignoring a misspelled filter would return too much."""

    code = "unknown-parameter"
    title = "Unknown query parameter"
    remedy = "Remove or correct the parameter. `detail` lists those that exist."

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown parameter; this operation accepts: {', '.join(known) or 'none'}", ("query", name))


def invalid_fields(faults: Sequence[Mapping[str, Any]]) -> Invalid:
    """Convert pydantic's errors; the `loc` of each begins with the part of the request, such as `body`.

    Only the first MAX_FAULTS are listed, so that a response is never much larger than its request.
    """
    # The invalid input is left out: it may be private text.
    listed = {
        (tuple(fault["loc"]), message_of(fault)): None for fault in faults[:MAX_FAULTS]
    }  # once, if two readers fail
    errors: list[dict[str, Any]] = [{"loc": list(loc), "msg": message} for loc, message in listed]
    if more := len(faults[MAX_FAULTS:]):
        errors.append({"loc": ["body"], "msg": f"Errors not listed: {more}."})
    detail = "; ".join(f"{'.'.join(map(str, error['loc'][1:])) or error['loc'][0]}: {error['msg']}" for error in errors)
    problem = Invalid(detail, ())
    problem.extra["errors"] = errors
    return problem


# What pydantic would say with the regular expression itself. A test finds a pattern of the API that is missing here.
PATTERNS: Final = {
    r"^\S+$": "must be one word, without spaces",
    r"^[\x20-\x7e]+$": "must have printable ASCII characters only",
    r"^[\x21-\x7e]+$": "must have printable ASCII characters only, without spaces",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": "must be a time from 00:00 to 23:59, such as 07:30",
    r"^[A-Z]{3}$": "must be a currency's code of three letters, such as EUR",
}


_COUNTED: Final = {"Value", "List"}  # what pydantic calls a text or list that a validator made, and other lists


def message_of(fault: Mapping[str, Any]) -> str:
    """Return the message of a pydantic error. Of text that was trimmed first, pydantic counts "items", as of a list."""
    limits = fault.get("ctx", {})
    if words := PATTERNS.get(limits.get("pattern")):
        return words
    if limits.get("field_type") in _COUNTED and fault["type"] == "too_long":
        counted = "items" if isinstance(fault.get("input"), list) else "characters"
        return f"must have at most {limits['max_length']} {counted}, not {limits['actual_length']}"
    if limits.get("field_type") in _COUNTED and fault["type"] == "too_short":
        return "must not be empty"
    return str(fault["msg"]).removeprefix("Value error, ")


class Unavailable(Problem):
    """The database or another part is unavailable for the moment, for example while it fails over."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
    title = "Unavailable"
    remedy = "Send the same request again after `Retry-After` seconds, with the same `Idempotency-Key`."
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "5"}


class MethodNotAllowed(Problem):  # only for the document: the router raises its own exception
    """The path exists, but not with this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method-not-allowed"
    title = "Method not allowed"
    remedy = "Use a method in the response header `Allow`."


class RequestTimeout(Problem):  # only for the document; raised as HTTPException: FastAPI treats others as invalid JSON
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request-timeout"
    title = "Request timeout"
    remedy = "Send the request again, faster: a body has 20 seconds, a body with files 30 minutes."


class PayloadTooLarge(Problem):
    """The body is larger than the limit: 64 KiB of text, or what the call says."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "payload-too-large"
    title = "Payload too large"
    remedy = "Send less. The same request would fail again."


class UrlTooLong(Problem):
    """The path and query are longer than 8 KiB."""

    status = HTTPStatus.REQUEST_URI_TOO_LONG
    code = "url-too-long"
    title = "URL too long"
    remedy = "Send fewer filters."


class HeadersTooLarge(Problem):
    """The headers, including cookies and the token, are larger than 32 KiB."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    code = "headers-too-large"
    title = "Headers too large"
    remedy = "Send a shorter token, or fewer cookies."


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for the problems of a route."""
    by_status: dict[int | str, dict[str, Any]] = {}
    if Invalid in problems:  # `shared.api.routing.ApiRoute` rejects unknown parameters
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
                            "summary": (problem.__doc__ or "").partition("\n")[0],
                            "description": problem.remedy,
                            "value": problem_body(
                                problem.status, problem.code, problem.title, "What is wrong.", **problem.example
                            ),
                        }
                        for problem in codes
                    },
                }
            },
        }
    return by_status


def problem_body(status: int, code: str, title: str, detail: str, **extra: Any) -> dict[str, Any]:
    """Return the members of a problem's JSON."""
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": int(status),
        "detail": detail,
        "code": code,
        **extra,
    }
