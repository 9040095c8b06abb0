"""JSON Schema of request bodies, for the OpenAPI document."""

from typing import Any

from pydantic import ConfigDict, TypeAdapter


def example(**fields: Any) -> ConfigDict:
    """Return a model configuration with an example for the document."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, with references inlined."""
    schema = TypeAdapter(kind).json_schema()
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {name: inline(value) for name, value in node.items() if name != "$defs"}
        if reference := node.pop("$ref", None):
            return inline(definitions[reference.removeprefix("#/$defs/")]) | node
        return node

    inlined: dict[str, Any] = inline(schema)
    return inlined
