"""Addresses of servers, as users write them."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_server(url: str) -> bool:
    """Whether a request can be sent there: http or https, a host, and a port that is one if any is named."""
    import httpx

    try:
        parts = urlsplit(url)
        httpx.URL(url)
        # Out of range it raises only when it is asked for.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False
