"""Read the use of a vLLM server's KV memory while calls run there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import httpx

from aios_core.cores.openai.vllm_metrics import KVPressure, read_pressure

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0


class PressureWatch:
    """Reads one server's metrics once a second while its core is busy. Used on one event loop.

    Args:
        core: the name of the core.
        root: the server's URL.
        is_busy: whether any call runs.
        timeout_s: how long one request may take.
    """

    def __init__(
        self, core: str, root: str, *, is_busy: Callable[[], bool], timeout_s: float
    ) -> None:
        self.pressure = KVPressure()
        self._core = core
        self._root = root
        self._is_busy = is_busy
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None

    def start(self, http: httpx.AsyncClient) -> None:
        """Start to read, if not reading yet."""
        if self._task is None:
            task = asyncio.get_running_loop().create_task(self._read(http))
            task.set_name(f"{self._core}-metrics")
            task.add_done_callback(self._forget)
            self._task = task

    async def stop(self) -> None:
        """Stop reading, and drop the last value."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.pressure = KVPressure()

    async def _read(self, http: httpx.AsyncClient) -> None:
        while self._is_busy():
            try:
                async with asyncio.timeout(self._timeout_s):
                    page = await http.get(f"{self._root}/metrics")
                self.pressure = read_pressure(page.text)
            except (TimeoutError, httpx.HTTPError) as exc:
                log.debug("core %r: no metrics: %r", self._core, exc)
            await asyncio.sleep(EVERY_S)
        self.pressure = KVPressure(0, self.pressure.kv_capacity)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()):
            log.warning("core %r: watching its metrics failed: %r", self._core, error)
