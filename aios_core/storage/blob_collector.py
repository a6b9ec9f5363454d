"""Remove unreferenced blobs in the background."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Final

from aios_core.errors import KernelError
from aios_core.state import StateOpener
from aios_core.storage.background import BackgroundTasks

log = logging.getLogger(__name__)

_EVERY: Final = 64  # stored blobs between two collections


class BlobCollector:
    """Removes blobs that no version refers to, one run at a time.

    A blob that a run cannot remove is tried again in the next run. Used on the kernel's loop
    only; the files are removed on a storage thread.
    """

    def __init__(self, state: StateOpener, background: BackgroundTasks) -> None:
        self._state = state
        self._background = background
        self._num_stored = 0  # blobs since the last run
        self._running: asyncio.Task[Any] | None = None

    def on_blob_stored(self) -> None:
        """Count a stored blob; after `_EVERY` of them, schedule a run.

        Each stored blob may have replaced another one.
        """
        self._num_stored += 1
        if self._num_stored >= _EVERY:
            self.schedule()

    def schedule(self) -> None:
        """Start a run unless one is running: there may be unreferenced blobs."""
        if self._running is None and not self._background.is_ending:
            self._running = self._background.spawn(self._collect())

    async def _collect(self) -> None:
        self._num_stored = 0
        try:
            state = await self._state.open()
            await self._background.run_on_thread(partial(state.blobs.collect, state.database))
        except (KernelError, OSError) as exc:
            log.warning("unreferenced blobs were not removed; the next run retries: %s", exc)
        finally:
            self._running = None
