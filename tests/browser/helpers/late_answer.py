"""A response that a test holds back, as a slow network does."""

import asyncio

from playwright.async_api import Route


class LateAnswer:
    """Lets a request through at once, which sets `fetched`, and passes its response on once `released` is set."""

    def __init__(self) -> None:
        self.fetched, self.released = asyncio.Event(), asyncio.Event()

    async def handle(self, route: Route) -> None:
        """Handle a request of a page; the handler of `page.route`."""
        response = await route.fetch()
        self.fetched.set()
        await self.released.wait()
        await route.fulfill(response=response)
