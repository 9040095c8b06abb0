"""JSON Schema of request bodies, for the OpenAPI document."""

from typing import Any

from pydantic import ConfigDict, TypeAdapter


def example(**fields: Any) -> ConfigDict:
    """Show an example of a body in the document."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, with all that it refers to in place."""
    schema = TypeAdapter(kind).json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        part = {name: inlined(value) for name, value in part.items() if name != "$defs"}
        if reference := part.pop("$ref", None):
            return inlined(definitions[reference.removeprefix("#/$defs/")]) | part
        return part

    found: dict[str, Any] = inlined(schema)
    return found
