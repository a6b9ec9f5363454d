"""Messages between a session and its driver: four bytes of length, then JSON.

What comes from the driver was written by the same process that runs foreign code,
so nothing of it is believed: a frame has a greatest length, is plain JSON, and
fits `Reply`, or the session is over. Lives on one event loop.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Final

from aios_core.tools.sandbox.fd_wait import read, write
from aios_core.tools.strict_json import NotJSON, parse

LONGEST: Final = 8 << 20  # bytes
_HEADER: Final = struct.Struct(">I")


class BadFrame(Exception):
    """What came is no reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A cell has ended. `value`: what its last expression was, as text."""

    cell: int
    exit_code: int
    value: str | None


class Channel:
    """Two pipes to a driver."""

    def __init__(self, to_driver: int, from_driver: int) -> None:
        self._to_driver = to_driver
        self._from_driver = from_driver
        self._received = bytearray()

    async def send(self, cell: int, language: str, code: str) -> None:
        """Raises `BrokenPipeError` if the driver is gone."""
        frame = json.dumps({"cell": cell, "language": language, "code": code}).encode()
        await write(self._to_driver, _HEADER.pack(len(frame)) + frame)

    async def receive(self) -> Reply | None:
        """The next reply; None if the driver is gone. Raises `BadFrame`. May be cancelled."""
        while (frame := self._frame()) is None:
            chunk = await read(self._from_driver)
            if not chunk:
                return None
            self._received += chunk
        return _reply(frame)

    def _frame(self) -> bytes | None:
        if len(self._received) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._received)
        if length > LONGEST:
            raise BadFrame(f"a frame of {length:,} bytes")
        end = _HEADER.size + length
        if len(self._received) < end:
            return None
        frame = bytes(self._received[_HEADER.size : end])
        del self._received[:end]
        return frame


def _reply(frame: bytes) -> Reply:
    try:
        said = parse(frame, LONGEST)
    except NotJSON as exc:
        raise BadFrame(str(exc)) from exc
    match said:
        case {"cell": int(cell), "exit_code": int(code), "value": str() | None as value}:
            return Reply(int(cell), int(code), value)
        case _:
            raise BadFrame("a frame that is no reply")
