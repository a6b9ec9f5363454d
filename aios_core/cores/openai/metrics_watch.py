"""Read an engine's page of metrics: once when its core starts, and while calls run there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import httpx

from aios_core.cores.openai.engine_signals import EngineSignals

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
MAX_PAGE_BYTES: Final = 16 * 2**20  # a vLLM server with many replicas sends about one

SignalsReader = Callable[[str], EngineSignals]


class MetricsWatch:
    """Reads one server's metrics: once in `read_now`, and every second while its core is busy.

    Used on one event loop.

    Args:
        core: the name of the core.
        root: the server's URL.
        key: sent as a bearer token, since a gateway may require it here, too.
        is_busy: whether any call runs.
        timeout_s: how long one request may take.
    """

    def __init__(
        self,
        core: str,
        root: str,
        *,
        key: str | None,
        is_busy: Callable[[], bool],
        timeout_s: float,
    ) -> None:
        self.signals = EngineSignals()
        self._core = core
        self.root = root
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._is_busy = is_busy
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None

    def start(self, http: httpx.AsyncClient, read: SignalsReader) -> None:
        """Start to read, if not reading yet."""
        if self._task is None or self._task.done():
            task = asyncio.get_running_loop().create_task(self._watch(http, read))
            task.set_name(f"{self._core}-metrics")
            task.add_done_callback(self._forget)
            self._task = task

    async def stop(self) -> None:
        """Stop reading, and drop the last values."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.signals = EngineSignals()

    async def read_now(self, http: httpx.AsyncClient, read: SignalsReader) -> None:
        """Read the metrics once. A server that does not send them leaves the last values."""
        try:
            async with asyncio.timeout(self._timeout_s):
                self.signals = read(await self._page(http))
        except (TimeoutError, httpx.HTTPError) as exc:
            log.debug("core %r: no metrics: %r", self._core, exc)

    async def _page(self, http: httpx.AsyncClient) -> str:
        """Return the page; a part of it if it is absurdly long."""
        page = bytearray()
        async with http.stream("GET", f"{self.root}/metrics", headers=self._headers) as reply:
            reply.raise_for_status()
            async for data in reply.aiter_bytes():
                page += data
                if len(page) > MAX_PAGE_BYTES:
                    break
        return page[:MAX_PAGE_BYTES].decode(errors="replace")

    async def _watch(self, http: httpx.AsyncClient, read: SignalsReader) -> None:
        is_last = False  # read once more after the last call, for its part of the counters
        while not is_last or self._is_busy():
            is_last = not self._is_busy()
            await self.read_now(http, read)
            if not is_last:
                await asyncio.sleep(EVERY_S)
        self.signals = replace(self.signals, kv_tokens=0)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (error := task.exception()):
            log.warning("core %r: reading its metrics failed: %r", self._core, error)
