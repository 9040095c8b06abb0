"""The calls by which the conversations service makes messages, notes and conversations of emails.

Each names the email's row, so that a call that is repeated posts nothing again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import httpx2

from services.notifications.inbound.parsing.mime import FilePart
from services.notifications.rules import InboundKind, InboundReason, InboundState
from shared.process.failpoints import failpoint

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


@dataclass(frozen=True, slots=True)
class Saved:
    """What an email has become: the id and the number of a message, and what was left out."""

    id: UUID
    number: int
    reason: InboundReason | None


Outcome = Saved | Ended | Limited | Outage | Failure


async def send(client: httpx2.AsyncClient, row: Mapping[str, Any], reply: Reply) -> Saved:
    """Send the files, then the text. Raises what else may become of it."""
    ids: list[str] = []
    reason = reply.reason
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
            "kind": InboundKind(row["kind"]),
        }
        try:
            answer = await _call(client, "/internal/inbound/files", params=params, content=content)
        except TooLarge:
            reason = InboundReason.FILES_LEFT_OUT
            continue
        failpoint("inbound-file-sent")
        ids += [answer["id"]] if answer["id"] else []
    answer = await _call(client, f"/internal/inbound/{row['id']}", json=_message(row, reply, ids))
    return Saved(UUID(answer["id"]), answer["number"], reason)


async def send_texts(
    client: httpx2.AsyncClient, emails: Sequence[tuple[Mapping[str, Any], Reply]]
) -> Sequence[Outcome]:
    """Send emails without files in one call; return what becomes of each. Raises `Outage` or `Failure` for all."""
    items = [_message(row, reply, []) | {"id": str(row["id"])} for row, reply in emails]
    answer = await _call(client, "/internal/inbound/batch", json={"emails": items})
    outcomes: list[Outcome] = []
    for (_, reply), said in zip(emails, answer["outcomes"], strict=True):
        if said["status"] == HTTPStatus.CREATED:
            outcomes.append(Saved(UUID(said["id"]), said["number"], reply.reason))
        else:
            outcomes.append(_refusal(said["status"], said.get("seconds", 0)))
    return outcomes


def _message(row: Mapping[str, Any], reply: Reply, ids: Sequence[str]) -> dict[str, Any]:
    return {
        "conversation_id": str(row["conversation_id"]),
        "user_id": row["user_id"],
        "body": reply.body,
        "attachments": ids,
        "read_up_to": row["read_up_to"],
        "kind": InboundKind(row["kind"]),
        "subject": reply.subject,
        "posted_by": row["posted_by"],
        "from_address": row["from_address"] if row["posted_by"] else None,
        "mentions": list(reply.mentions),
    }


async def _call(client: httpx2.AsyncClient, path: str, **request: Any) -> dict[str, Any]:
    """Call the conversations service; return its answer. Raises what else may become of an email, or `TooLarge`."""
    try:
        response = await client.post(path, **request)
    except httpx2.HTTPError as error:
        raise Outage(type(error).__name__) from None
    if response.status_code in {HTTPStatus.OK, HTTPStatus.CREATED}:
        answer: dict[str, Any] = response.json()
        return answer
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        raise TooLarge
    raise _refusal(response.status_code, int(response.headers.get("Retry-After", "0")))


def _refusal(status: int, seconds: int) -> Ended | Limited | Outage | Failure:
    """Return what becomes of an email for which the conversations service has this status."""
    match status:
        case HTTPStatus.NOT_FOUND:
            return Ended(InboundState.REFUSED, InboundReason.CONVERSATION_DELETED)
        case HTTPStatus.FORBIDDEN:
            return Ended(InboundState.REFUSED, InboundReason.NO_LONGER_ALLOWED)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Limited(min(seconds or 60, LONGEST_DELAY))
        case HTTPStatus.UNAUTHORIZED:
            return Outage("CHATS_INBOUND_SECRET differs from that of the conversations service")
        case HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.BAD_GATEWAY | HTTPStatus.GATEWAY_TIMEOUT:
            return Outage(str(status))
        case _:
            return Failure(str(status))
