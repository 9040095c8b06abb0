"""The state of the broker as a process sees it, without the client libraries: most processes never load them."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """The kind of a fault, also a label in the metrics."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CERTIFICATE = "certificate"
    REFUSED = "refused"
    QUEUE_MISMATCH = "queue_mismatch"
    READ_ONLY = "read_only"
    OUT_OF_SPACE = "out_of_space"
    STARTING = "starting"
    QUEUE_FULL = "queue_full"
    OTHER = "other"


REFUSALS = frozenset({Reason.REFUSED, Reason.QUEUE_MISMATCH})
"""Faults of the configuration. Retrying does not help."""


class Fault(NamedTuple):
    """A reason, and a line of detail without secrets."""

    reason: Reason
    detail: str


class BrokerStatus(NamedTuple):
    """A process's current fault with the broker, if any, and since when (monotonic clock)."""

    fault: Fault | None
    changed_at: float
