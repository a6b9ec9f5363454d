"""Frame the messages between a session and its driver: four bytes of length, then JSON.

The driver's process runs untrusted code, so its messages are untrusted: a frame that is too
long, is not plain JSON, or does not fit `Reply` ends the session. Runs on one event loop.
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
    """A frame that is not a reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The report that a cell has ended. `value` is the `repr` of its last expression."""

    cell: int
    exit_code: int
    value: str | None


class Channel:
    """The two pipes to and from a driver."""

    def __init__(self, to_driver: int, from_driver: int) -> None:
        self._to_driver = to_driver
        self._from_driver = from_driver
        self._received = bytearray()

    async def send(self, cell: int, language: str, code: str) -> None:
        """Send a cell. Raises `BrokenPipeError` if the driver has ended."""
        frame = json.dumps({"cell": cell, "language": language, "code": code}).encode()
        await write(self._to_driver, _HEADER.pack(len(frame)) + frame)

    async def receive(self) -> Reply | None:
        """Return the next reply, or None if the driver has ended. May be cancelled.

        Raises:
            BadFrame: the driver sent something else.
        """
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
        fields = parse(frame, LONGEST)
    except NotJSON as exc:
        raise BadFrame(str(exc)) from exc
    match fields:
        case {"cell": int(cell), "exit_code": int(code), "value": str() | None as value}:
            return Reply(int(cell), int(code), value)
        case _:
            raise BadFrame("a frame that is not a reply")
