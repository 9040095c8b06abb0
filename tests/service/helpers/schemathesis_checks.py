"""What schemathesis checks besides its own: that valid data is accepted, as far as a schema can say what is valid."""

import re
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

# What the API refuses in words, since its document cannot say it in a schema.
UNSAYABLE = re.compile(
    r"""
      This\ cursor\ cannot\ be\ read                      # it is opaque, and bound to its filters
    | This\ Idempotency-Key\ came\ before                 # with another request
    | The\ customer\ has\ no\ such\ order                 # what there is, is known to the database
    | There\ is\ no\ such\ customer
    | give\ a\ status,\ a\ reply_body,\ or\ both          # at least one of them, and neither is null
    | should\ have\ at\ least\ 1\                         # character, once it is trimmed
    | needs\ at\ least\ one\ visible | cannot\ hold       # characters that lists of what is allowed would have to name
    | this\ time\ lies\ outside                         # the years that the database can store
    | should\ be\ a\ valid\ integer                       # 1.0, which JSON Schema takes for one
    """,
    re.VERBOSE,
)


@schemathesis.serializer("application/x-ndjson")
def as_text(ctx: schemathesis.SerializationContext, value: Any) -> Any:  # noqa: ARG001 - as it is called
    """Send what the document calls a text of lines as it is."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.check
def valid_data_is_accepted(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Hold the API to accept what its document calls valid, unless every fault that it tells is beyond a schema."""
    if response.status_code == 422:
        faults = response.json().get("errors", [])
        if faults and all(UNSAYABLE.search(fault["msg"]) for fault in faults):
            return None
    # As it is configured by default: the configuration of the check itself has it disabled.
    return positive_data_acceptance(ctx, response, case)
