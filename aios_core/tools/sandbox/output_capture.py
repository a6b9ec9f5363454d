"""Capture the output of a program up to a limit. Runs on one event loop."""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
from collections.abc import Callable
from typing import Final

from aios_core.tools.sandbox.limits import FLOOD_FACTOR
from aios_core.tools.sandbox.result import OnOutput, Stream
from aios_core.untrusted.third_party import log_raised

_log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 16  # bytes; a pipe's size


class OutputCapture:
    """The captured output of one stream: the first `limit` bytes since the last `take`.

    A stream far beyond the limit calls `on_flood` once, because even reading and discarding it
    takes time.
    """

    def __init__(
        self, descriptor: int, stream: Stream, limit: int, on_flood: Callable[[], None]
    ) -> None:
        self._descriptor = descriptor
        self._stream = stream
        self._limit = limit
        self._on_flood = on_flood
        self._on_output: OnOutput | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._begin()
        self._loop.add_reader(descriptor, self._read)

    def listen(self, on_output: OnOutput | None) -> None:
        """Pass what was kept since the last `take`, and all later output, to `on_output`."""
        self._on_output = on_output
        self._hand_on("".join(self._parts))

    async def end(self) -> None:
        """Wait until all writers have closed the stream."""
        await self._ended

    def take(self) -> tuple[str, bool]:
        """Return the output since the last `take`, including the pipe's, and whether it was cut."""
        while self._read():
            pass
        self._keep(self._decoder.decode(b"", final=True))
        taken = "".join(self._parts), self._num_bytes > self._limit
        self._begin()
        return taken

    def stop(self) -> None:
        """Stop reading."""
        self._loop.remove_reader(self._descriptor)
        if not self._ended.done():
            self._ended.set_result(None)

    def _begin(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parts: list[str] = []
        self._num_bytes = 0
        self._is_flood = False

    def _read(self) -> bool:
        """Read a chunk. Returns whether there may be more."""
        if self._ended.done():
            return False
        try:
            chunk = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.stop()
            return False
        room = max(0, self._limit - self._num_bytes)
        self._num_bytes += len(chunk)
        self._keep(self._decoder.decode(chunk[:room]))
        if self._num_bytes > self._limit * FLOOD_FACTOR and not self._is_flood:
            self._is_flood = True
            self._on_flood()
        return not self._is_flood

    def _keep(self, text: str) -> None:
        if not text:
            return
        self._parts.append(text)
        self._hand_on(text)

    def _hand_on(self, text: str) -> None:
        if text and self._on_output is not None:
            try:
                self._on_output(self._stream, text)
            except Exception as exc:  # noqa: BLE001 - a third-party callback
                log_raised(_log, exc, "`on_output` of confined code raised; it is not called again")
                self._on_output = None
