"""What the notifications service holds of a person, read from its internal API."""

from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final
from urllib.parse import quote
from uuid import UUID

import httpx2

from shared.problems import Unavailable

PAGE: Final = 200
_WHAT_TO_DO: Final = (
    "Start the notifications service, or check CHATS_NOTIFICATIONS_URL and CHATS_FEED_SECRET, and try again. "
    "Nothing was exported."
)


class NotificationsUnavailable(Unavailable):
    """The notifications service does not answer. Without its part, what is known of a person is incomplete."""

    code = "notifications-unavailable"
    title = "The notifications service is unavailable"
    remedy = "Start the notifications service, or check `CHATS_NOTIFICATIONS_URL` and `CHATS_FEED_SECRET`."
    headers: ClassVar[Mapping[str, str] | None] = {"Retry-After": "30"}


class Notifications:
    """The part of a person in the notifications service. Each method raises `NotificationsUnavailable`.

    `user_ids`: all ids of the person, their own one last, because the previous release reads the last one only.
    """

    def __init__(self, client: httpx2.AsyncClient | None, user_ids: Sequence[str]) -> None:
        self._client, self._user_ids = client, user_ids

    async def read_profile(self) -> dict[str, Any]:
        """Return what is known of the person, and what they want of emails."""
        profile: dict[str, Any] = (await self._get("")).json()
        return profile

    async def items(self, kind: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield pages of all that the person has of a kind."""
        after: str | None = str(UUID(int=0))
        while after is not None:
            page = (await self._get(f"/{kind}", {"after": after, "limit": str(PAGE)})).json()
            if page["items"]:
                yield page["items"]
            after = page["last"]

    async def read_original(self, inbound_id: str) -> bytes | None:
        """Return an email as it came in; None if it is not kept any more."""
        answer = await self._get(f"/inbound-emails/{quote(inbound_id)}", may_be_gone=True)
        return answer.content if answer.status_code == HTTPStatus.OK else None

    async def _get(
        self, path: str, parameters: Mapping[str, str] | None = None, *, may_be_gone: bool = False
    ) -> httpx2.Response:
        if self._client is None:
            raise NotificationsUnavailable(f"CHATS_FEED_SECRET is not set. {_WHAT_TO_DO}")
        try:
            answer = await self._client.get(
                f"/internal/people{path}", params={"user_id": self._user_ids, **(parameters or {})}
            )
        except httpx2.HTTPError:
            raise NotificationsUnavailable(f"The notifications service does not answer. {_WHAT_TO_DO}") from None
        if answer.status_code != HTTPStatus.OK and not (may_be_gone and answer.status_code == HTTPStatus.NOT_FOUND):
            raise NotificationsUnavailable(f"The notifications service answered {answer.status_code}. {_WHAT_TO_DO}")
        return answer
