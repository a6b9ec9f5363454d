"""Record whether a request was sent: a prompt that was sent may have cost something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from aios_core.cores.streaming import LiveRun

_SENT: Final = "send_request_body.complete"  # httpcore's name, after "http11." or "http2."

_sending: ContextVar[LiveRun | None] = ContextVar("aios_sending", default=None)


@contextmanager
def sending(live: LiveRun) -> Iterator[None]:
    """Mark the requests of this task as those of a run; `watch_request` sets its `was_sent`."""
    token = _sending.set(live)
    try:
        yield
    finally:
        _sending.reset(token)


async def watch_request(request: Any) -> None:
    """Trace a request of httpx or httpx2; a hook that runs before the request is sent."""
    live = _sending.get()
    if live is None:
        return

    async def trace(event: str, _info: dict[str, Any]) -> None:
        live.was_sent = live.was_sent or event.endswith(_SENT)

    request.extensions["trace"] = trace
