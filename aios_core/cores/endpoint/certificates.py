"""Load the certificates that connections to endpoints are checked against."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache


@cache
def certificates(create: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Read the certificates once, with the HTTP library's own function `create`.

    Takes 50 ms or more: not for the kernel's loop.
    """
    return create()
