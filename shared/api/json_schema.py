"""JSON Schema for the OpenAPI document, of bodies that FastAPI does not know."""

from collections.abc import Mapping
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


def add_schemas(document: dict[str, Any], kinds: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Add the schemas of types, and of those within, to the components of a document; return the reference of each.

    A component that the document has already stays as it is.
    """
    adapters = [(name, "serialization", TypeAdapter(kind)) for name, kind in kinds.items()]
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type] # a literal
    components = document["components"]["schemas"]
    for name, schema in definitions.get("$defs", {}).items():
        components.setdefault(name, schema)
    return {name: schemas[name, "serialization"] for name in kinds}
