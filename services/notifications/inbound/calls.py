"""The calls by which the conversations service makes messages, notes and conversations of emails.

Each names the email's row, so that a call that is repeated posts nothing again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx2

from services.notifications.inbound.mime import FilePart
from services.notifications.rules import InboundKind, InboundReason, InboundState
from shared.failpoints import failpoint

CALL_SECONDS: Final = 30.0
LONGEST_DELAY: Final = 3600  # seconds; then a limit is asked again, which may have been raised


@dataclass(frozen=True, slots=True)
class Reply:
    """What becomes of an email: the text and the files of a message, and what was left out.

    `subject`: of a conversation that it opens. `mentions`: the admins who learn of a note.
    """

    body: str
    files: Sequence[FilePart]
    reason: InboundReason | None = None
    subject: str | None = None
    mentions: Sequence[str] = ()


class Outage(Exception):  # noqa: N818 - as others name it
    """The conversations service cannot be reached, or does not work for anything."""


class Failure(Exception):  # noqa: N818 - as above
    """The conversations service did not accept this email. It may be tried again."""


class TooLarge(Exception):  # noqa: N818 - as above
    """A file is larger than the conversations service accepts."""


class Ended(Exception):  # noqa: N818 - an end, not an error
    """The email will never be posted."""

    def __init__(self, state: InboundState, reason: InboundReason) -> None:
        super().__init__(reason)
        self.state, self.reason = state, reason


class Limited(Exception):  # noqa: N818 - no error: it waits
    """Its author has reached a limit, and may write again after some seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


async def send(client: httpx2.AsyncClient, row: Mapping[str, Any], reply: Reply) -> tuple[dict[str, Any], bool]:
    """Send the files, then the text; return the message, and whether files were left out for their size."""
    ids: list[str] = []
    left_out = False
    kind = InboundKind(row["kind"])
    for position, file in enumerate(reply.files):
        content = file.content
        params: dict[str, str | int] = {
            "inbound_id": str(row["id"]),
            "conversation_id": str(row["conversation_id"]),
            "user_id": row["user_id"],
            "position": position,
            "name": file.name[:255],
            "size": len(content),
            "inline": str(file.inline).lower(),
            "kind": kind,
        }
        try:
            answer = await _call(client, "/internal/inbound/files", params=params, content=content)
        except TooLarge:
            left_out = True
            continue
        failpoint("inbound-file-sent")
        ids += [answer["id"]] if answer["id"] else []
    body = {
        "conversation_id": str(row["conversation_id"]),
        "user_id": row["user_id"],
        "body": reply.body,
        "attachments": ids,
        "read_up_to": row["read_up_to"],
        "kind": kind,
        "subject": reply.subject,
        "posted_by": row["posted_by"],
        "from_address": row["from_address"] if row["posted_by"] else None,
        "mentions": list(reply.mentions),
    }
    return await _call(client, f"/internal/inbound/{row['id']}", json=body), left_out


async def _call(client: httpx2.AsyncClient, path: str, **request: Any) -> dict[str, Any]:
    """Call the conversations service; return its answer. Raises `Outage`, `Failure`, `Limited` or `Ended`."""
    try:
        response = await client.post(path, **request)
    except httpx2.HTTPError as error:
        raise Outage(type(error).__name__) from None
    match response.status_code:
        case HTTPStatus.OK | HTTPStatus.CREATED:
            answer: dict[str, Any] = response.json()
            return answer
        case HTTPStatus.NOT_FOUND:
            raise Ended(InboundState.REFUSED, InboundReason.CONVERSATION_DELETED)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge
        case HTTPStatus.FORBIDDEN:
            raise Ended(InboundState.REFUSED, InboundReason.NO_LONGER_ALLOWED)
        case HTTPStatus.TOO_MANY_REQUESTS:
            raise Limited(min(int(response.headers.get("Retry-After", "60")), LONGEST_DELAY))
        case HTTPStatus.UNAUTHORIZED:
            raise Outage("CHATS_INBOUND_SECRET differs from that of the conversations service")
        case HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.BAD_GATEWAY | HTTPStatus.GATEWAY_TIMEOUT:
            raise Outage(str(response.status_code))
        case _:
            raise Failure(str(response.status_code))
