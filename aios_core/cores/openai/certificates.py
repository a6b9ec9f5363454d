"""Load the certificates that connections to endpoints are checked against."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def certificates() -> ssl.SSLContext:
    """Read the certificates once. Takes 50 ms or more: not for the kernel's loop."""
    return httpx.create_ssl_context()
