#!/bin/sh
# pydantic 2.14.3: the JSON Schemas of `Page[Order]` and `Page[Person]` of a generic dataclass have the same title, `Page`,
# under different names in `$defs`. Generators of clients that name classes by their title lose all of them but one.
# Expected: what a generic BaseModel of the same shape gives: the titles `Page[Order]` and `Page[Person]`.
# The script fails if either of them does otherwise.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.3
cat > "$folder/titles.py" <<'PY'
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

T = TypeVar("T")


class Order(BaseModel):
    number: str


class Person(BaseModel):
    name: str


@dataclass
class Page(Generic[T]):
    items: list[T]


class ModelPage(BaseModel, Generic[T]):
    items: list[T]


def titles(page):
    inputs = [(item, "serialization", TypeAdapter(page[item])) for item in (Order, Person)]
    definitions = TypeAdapter.json_schemas(inputs)[1]["$defs"]
    return sorted(schema["title"] for name, schema in definitions.items() if "Page" in name)


of_dataclass, of_model = titles(Page), titles(ModelPage)
assert of_dataclass == ["Page", "Page"], of_dataclass
assert of_model == ["ModelPage[Order]", "ModelPage[Person]"], of_model
print(f"titles of a generic dataclass: {of_dataclass}; of a generic model: {of_model}")
PY
"$folder/venv/bin/python" "$folder/titles.py"
