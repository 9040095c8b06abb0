"""An additional check for schemathesis: valid data is accepted, as far as a schema can describe validity."""

import re
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

# Reasons for rejecting data that a JSON Schema cannot express.
NOT_IN_SCHEMA = re.compile(
    r"""
      This\ cursor\ is\ invalid                          # it is opaque, and bound to its filters
    | This\ Idempotency-Key\ was\ already\ used          # with another request
    | The\ customer\ has\ no\ such\ order                 # the database knows
    | There\ is\ no\ such\ (customer|admin|user) | must\ be\ the\ id\ of\ another\ user
    | can\ have\ up\ to\ 20\ labels                     # together with those that it has
    | Send\ assigned\ or\ assignee_id                    # one of them
    | send\ at\ least\ one\ of\ status,                  # and it is not null
    | unknown\ variables                               # in double braces
    | must\ be\ a\ known\ locale
    | must\ not\ be\ after\ to | covers\ at\ most\ 3660\ days | must\ be\ a\ date\ from\ 2000
    | There\ is\ no\ such\ file\ that\ you\ can\ send
    | must\ not\ repeat\ an\ id
    | send\ a\ status,\ a\ reply_body,\ or\ both          # at least one of them, and neither is null
    | must\ not\ be\ empty                               # once it is trimmed
    | should\ have\ at\ least\ 1\b
    | needs\ at\ least\ one\ visible | cannot\ contain    # lists of the allowed characters would have to name them
    | must\ be\ between\ the\ years                      # that the database can store
    | The\ URL\ (must|[a-z0-9.:-]+\ is\ )                # of a webhook; addresses.check_url has the rules
    | send\ at\ least\ one\ of\ url,                     # and it is not null
    | start\ and\ end\ must\ be\ different
    | must\ be\ after\ `from` | times\ need\ a\ zone
    | should\ be\ a\ valid\ integer                       # 1.0, which JSON Schema accepts as one
    """,
    re.VERBOSE,
)


@schemathesis.serializer("application/x-ndjson")
def as_text(ctx: schemathesis.SerializationContext, value: Any) -> Any:  # noqa: ARG001 - as it is called
    """Send bodies of this media type as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.check
def valid_data_is_accepted(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Assert that data valid by the document is accepted, unless every reported error is beyond a schema."""
    if response.status_code == 422:
        faults = response.json().get("errors", [])
        if faults and all(NOT_IN_SCHEMA.search(fault["msg"]) for fault in faults):
            return None
    # The default configuration; the one of the check itself disables it.
    return positive_data_acceptance(ctx, response, case)
