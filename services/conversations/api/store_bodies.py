"""How routes read what the store sends, and how the OpenAPI document describes it."""

from typing import Any

from fastapi import Depends, FastAPI, Request

from services.conversations.catalog.schemas import Checked, PutOrder, PutUser, R, Record, check_record
from services.conversations.catalog.values import read_json
from shared.json_schema import schema_of
from shared.problems import Invalid


def sent(kind: type[R]) -> Any:
    """Return a dependency that reads a body of this kind.

    It reads the JSON itself: FastAPI would make a float of each number, and take no context for the warnings.
    """

    async def read(request: Request) -> Checked[R]:
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not (
            media_type.startswith("application/") and media_type.endswith("+json")
        ):
            raise Invalid("send JSON, with Content-Type: application/json", ("body",))
        try:
            found = read_json(await request.body())
        except (ValueError, RecursionError):
            raise Invalid("the body cannot be read: send JSON in UTF-8", ("body",)) from None
        if not isinstance(found, dict):
            raise Invalid("the body is a JSON object", ("body",))
        return check_record(kind, found)

    return Depends(read)


def body_of(kind: type[Record]) -> dict[str, Any]:
    """Describe a body of this kind in the API document, which `describe` completes."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Add the bodies of the store's PUTs to the API document."""
    build = app.openapi

    def document() -> dict[str, Any]:
        built = build()
        built["components"]["schemas"] |= {kind.__name__: schema_of(kind) for kind in (PutUser, PutOrder)}
        return built

    app.openapi = document  # type: ignore[method-assign] # as FastAPI's own documentation extends the document
