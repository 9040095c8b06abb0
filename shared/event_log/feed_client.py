"""The HTTP client of the other service's log."""

import httpx2

TIMEOUT = 10.0  # seconds
AFTER_EVERYTHING = 2**63 - 1


def create_feed(url: str, secret: str) -> httpx2.AsyncClient:
    """Create the HTTP client."""
    return httpx2.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {secret}"},
        timeout=TIMEOUT,
        trust_env=False,  # an internal service, not behind a proxy
    )
