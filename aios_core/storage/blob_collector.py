"""Removes the large contents that no version has any more, in the background, now and then."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Final

from aios_core.errors import KernelError
from aios_core.state import StateOpener
from aios_core.storage.background import Work

log = logging.getLogger(__name__)

_EVERY: Final = 64  # large versions, between two looks


class Collector:
    """One look at a time. What a look cannot remove stays for the next one."""

    def __init__(self, state: StateOpener, work: Work) -> None:
        self._state = state
        self._work = work
        self._num_large = 0  # versions since the last look
        self._look: asyncio.Task[Any] | None = None

    def stored_large(self) -> None:
        """A version with a large content was stored; each may have replaced another one."""
        self._num_large += 1
        if self._num_large >= _EVERY:
            self.look_soon()

    def look_soon(self) -> None:
        """There may be contents of nobody."""
        if self._look is None and not self._work.is_ending:
            self._look = self._work.begin(self._collect())

    async def _collect(self) -> None:
        self._num_large = 0
        try:
            state = await self._state.opened()
            await self._work.on_thread(partial(state.blobs.collect, state.database))
        except (KernelError, OSError) as exc:
            log.warning("contents of nobody stay for now: %s", exc)
        finally:
            self._look = None
