"""Read an email of the usual form, at a quarter of what the email package takes, which looks at each line by itself.

It reads no email differently: what leaves any choice is left to the email package, and a test compares both.
"""

import re
from email.message import Message
from email.policy import Policy
from typing import Final

from services.notifications.inbound.parsing.descriptions import described

MAX_DEPTH: Final = 10  # of parts within each other
_HEADER: Final = re.compile(r"[!-9;-~]++:[^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+\r\n")


def read_usual(source: bytes, policy: Policy) -> Message | None:
    """Return an email with its parts; None if its form is another one."""
    breaks = source.count(b"\r\n")
    if source.count(b"\n") != breaks or source.count(b"\r") != breaks:
        return None
    return _read_part(source.decode("ascii", "surrogateescape"), policy, 0)


def _read_part(text: str, policy: Policy, depth: int) -> Message | None:
    """Return an email, or a part of one; None if it has an attached email, whose lines are read in another way."""
    head, has_body, body = text.partition("\r\n\r\n")
    part = read_usual_headers(f"{head}\r\n", policy) if has_body else None
    if part is None:
        return None
    kind = described(part).content_type
    if kind.startswith("message/"):
        return None
    if not kind.startswith("multipart/"):
        part.set_payload(body)
        return part
    texts = _split(body, described(part).boundary)
    if texts is None or depth == MAX_DEPTH or kind == "multipart/digest":
        return None
    for inner in texts:
        child = _read_part(inner, policy, depth + 1)
        if child is None:
            return None
        part.attach(child)
    return part


def read_usual_headers(head: str, policy: Policy) -> Message | None:
    """Return a message with these headers, each of which ends with a line break; None if other lines are among them."""
    message, end = Message(policy=policy), 0
    while end < len(head):
        header = _HEADER.match(head, end)
        if header is None:
            return None
        message.set_raw(*policy.header_source_parse([header[0]]))
        end = header.end()
    return message


def _split(body: str, boundary: str) -> list[str] | None:
    """Return the parts between the lines of a boundary; None if lines begin with it that are not such a line."""
    if not boundary:
        return None
    _preamble, *parts = f"\r\n{body}".split(f"\r\n--{boundary}")
    end = parts.pop() if parts else ""
    if not parts or not (end == "--" or end.startswith("--\r\n")):
        return None
    return [part[2:] for part in parts] if all(part.startswith("\r\n") for part in parts) else None
