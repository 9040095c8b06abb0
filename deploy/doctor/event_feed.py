"""Check that each service can read the event log of the other one."""

from collections.abc import Awaitable, Callable, Sequence

import httpx2

from deploy.doctor.findings import Finding, fault, note, ok
from deploy.doctor.settings import why_unchecked
from services.conversations.emails import feed_client as emails
from services.conversations.emails.follower import TYPES
from services.conversations.settings import JobsSettings
from services.notifications.event_consumer.feed_client import read_end
from services.notifications.settings import SweeperSettings
from shared.event_log.feed_client import create_feed
from shared.settings import read_settings

_SAME_SECRET = "Use the same CHATS_FEED_SECRET in both services, and the API's own address, not the proxy's."  # noqa: S105 - a text


async def check() -> Sequence[Finding]:
    """Read the end of each log, as the sweeper and the jobs do."""
    return [await _of_conversations(), await _of_notifications()]


async def _of_conversations() -> Finding:
    if unchecked := why_unchecked(SweeperSettings):
        return unchecked
    settings = read_settings(SweeperSettings)

    async def head(feed: httpx2.AsyncClient) -> int:
        return (await read_end(feed)).head

    advice = "Set CHATS_CONVERSATIONS_URL to the address of `chats api`, as this machine reaches it."
    return await _read(settings.conversations_url, settings.feed_secret.get_secret_value(), head, advice)


async def _of_notifications() -> Finding:
    if unchecked := why_unchecked(JobsSettings):
        return unchecked
    settings = read_settings(JobsSettings)
    if settings.feed_secret is None:
        return note("Not checked: CHATS_FEED_SECRET is not set.")

    async def head(feed: httpx2.AsyncClient) -> int:
        return (await emails.read_end(feed, TYPES)).head

    advice = "Set CHATS_NOTIFICATIONS_URL to the address of `chats notifications-api`, as this machine reaches it."
    return await _read(settings.notifications_url, settings.feed_secret.get_secret_value(), head, advice)


async def _read(url: str, secret: str, head: Callable[[httpx2.AsyncClient], Awaitable[int]], advice: str) -> Finding:
    async with create_feed(url, secret) as feed:
        try:
            return ok(f"{url} is readable; the log ends at position {await head(feed)}.")
        except httpx2.HTTPStatusError as error:
            return fault(f"{url} answers with status {error.response.status_code}.", _SAME_SECRET)
        except (httpx2.HTTPError, ValueError) as error:
            # The text of a ValueError is about each field of another server's answer.
            reason = "it answers with something else" if isinstance(error, ValueError) else str(error).rstrip(".")
            return fault(f"{url} cannot be read: {reason or type(error).__name__}.", advice)
