#!/bin/sh
# pydantic 2.14.3: a constraint that follows a function validator (Before, After) is checked, but the JSON Schema does not tell it
# as it would without the validator: `pattern` is missing, and `ge=3` appears as `"ge": 3`, which JSON Schema does not know and
# clients ignore. `max_length` is told well.
# Expected: `"pattern"` and `"minimum": 3` in both orders, because the same values are refused.
# The script fails if the schema or the check changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.3
cat > "$folder/constraints.py" <<'PY'
from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError


def same(value):
    return value


ORDERS = {
    "constraint, validator": (
        Annotated[str, Field(pattern="^a", max_length=2), AfterValidator(same)],
        Annotated[int, Field(ge=3), AfterValidator(same)],
    ),
    "validator, constraint": (
        Annotated[str, AfterValidator(same), Field(pattern="^a", max_length=2)],
        Annotated[int, AfterValidator(same), Field(ge=3)],
    ),
}
schemas = {}
for order, types in ORDERS.items():
    schemas[order] = [TypeAdapter(one).json_schema() for one in types]
    for one, wrong in zip(types, ("b", 2), strict=True):
        try:
            TypeAdapter(one).validate_python(wrong)
        except ValidationError:
            continue
        raise SystemExit(f"{order}: {wrong!r} was accepted")
    print(f"{order}: 'b' and 2 are refused; schemas", *schemas[order])
assert schemas["constraint, validator"] == [
    {"type": "string", "pattern": "^a", "maxLength": 2},
    {"type": "integer", "minimum": 3},
]
assert schemas["validator, constraint"] == [{"type": "string", "maxLength": 2}, {"type": "integer", "ge": 3}]
PY
"$folder/venv/bin/python" "$folder/constraints.py"
