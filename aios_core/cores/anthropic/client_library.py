"""The installed version of Anthropic's client, and the library for HTTP below it.

Versions from 1 on are built on httpx2, earlier ones on httpx. LLM classes of some frameworks need
an earlier one, so all of them are supported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import anthropic

_FIRST_WITH_HTTPX2: Final = 1
_MAJOR: Final = int(anthropic.__version__.partition(".")[0])

#: The module `httpx2`, or `httpx`.
http: Any = import_module("httpx2" if _MAJOR >= _FIRST_WITH_HTTPX2 else "httpx")
