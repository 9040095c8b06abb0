"""Check that the notifications service can read the event log of the conversations service."""

from collections.abc import Sequence

import httpx2

from deploy.doctor.findings import Finding, fault, note, ok
from services.notifications.event_consumer.feed_client import create_feed, read_end
from services.notifications.settings import SweeperSettings
from shared.settings import read_settings, settings_errors


async def check() -> Sequence[Finding]:
    """Read the end of the log, as the sweeper does."""
    if settings_errors(SweeperSettings):
        return [note("Not checked: the settings of the sweeper are not complete here.")]
    settings = read_settings(SweeperSettings)
    url = settings.conversations_url
    async with create_feed(url, settings.feed_secret.get_secret_value()) as feed:
        try:
            end = await read_end(feed)
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            return [
                fault(
                    f"{url} answers with status {status}.",
                    "Use the same CHATS_FEED_SECRET in both services, and the API's own address, not the proxy's.",
                )
            ]
        except (httpx2.HTTPError, ValueError) as error:
            # The text of a ValueError is about each field of another server's answer.
            reason = "it answers with something else" if isinstance(error, ValueError) else str(error).rstrip(".")
            return [
                fault(
                    f"{url} cannot be read: {reason or type(error).__name__}.",
                    "Set CHATS_CONVERSATIONS_URL to the address of `chats api`, as this machine reaches it.",
                )
            ]
    return [ok(f"{url} is readable; the log ends at position {end.head}.")]
