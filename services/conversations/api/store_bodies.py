"""Dependencies that read the store's JSON bodies, and their description in the OpenAPI document."""

from typing import Any

from fastapi import Depends, FastAPI, Request

from services.conversations.catalog.schemas import Checked, PutOrder, PutUser, R, Record, check_record
from services.conversations.catalog.values import read_json
from shared.api.json_schema import schema_of
from shared.problems import Invalid


def store_body(kind: type[R]) -> Any:
    """Return a dependency that reads and validates a body.

    It parses the JSON itself: FastAPI would convert numbers to floats and cannot collect the warnings.
    """

    async def read(request: Request) -> Checked[R]:
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not (
            media_type.startswith("application/") and media_type.endswith("+json")
        ):
            raise Invalid("send JSON, with Content-Type: application/json", ("body",))
        try:
            data = read_json(await request.body())
        except (ValueError, RecursionError):
            raise Invalid("the body cannot be read: send JSON in UTF-8", ("body",)) from None
        if not isinstance(data, dict):
            raise Invalid("the body must be a JSON object", ("body",))
        return check_record(kind, data)

    return Depends(read)


def body_schema(kind: type[Record]) -> dict[str, Any]:
    """Return the OpenAPI reference to a body's schema, which `describe_bodies` adds."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_bodies(app: FastAPI) -> None:
    """Add the schemas of the store's PUT bodies to the OpenAPI document."""
    build = app.openapi

    def document() -> dict[str, Any]:
        built = build()
        built["components"]["schemas"] |= {kind.__name__: schema_of(kind) for kind in (PutUser, PutOrder)}
        return built

    app.openapi = document  # type: ignore[method-assign] # as in FastAPI's documentation
