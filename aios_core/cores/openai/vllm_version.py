"""Ask a vLLM server for its version, since older ones do not know every field of a request."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import httpx

SESSIONS_SINCE: Final = (0, 32)  # requests may name the session that they belong to
_UNKNOWN: Final = (0, 0)
_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})")


async def ask_version(http: httpx.AsyncClient, root: str, timeout_s: float) -> tuple[int, int]:
    """Return major and minor version of a server; (0, 0) if it does not state them."""
    try:
        async with asyncio.timeout(timeout_s):
            reply = await http.get(f"{root}/version")
        text = reply.json()["version"] if reply.status_code == httpx.codes.OK else ""
    except (TimeoutError, httpx.HTTPError, ValueError, KeyError, TypeError):
        return _UNKNOWN
    found = _VERSION.match(text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2])) if found else _UNKNOWN
