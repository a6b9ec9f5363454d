"""Wait for file descriptors on an event loop: one waiter for each descriptor and direction."""

from __future__ import annotations

import asyncio
import os
from typing import Final

_CHUNK: Final = 1 << 16  # bytes; a pipe's size


async def readable(descriptor: int) -> None:
    """Wait until a descriptor has data or is at its end; for a pidfd, until its process ended."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Wait until a descriptor accepts data, or its reader has closed it."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


async def read(descriptor: int) -> bytes:
    """Wait for data of a non-blocking descriptor and return it, or b"" at its end."""
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:
            await readable(descriptor)


async def write(descriptor: int, content: bytes) -> None:
    """Write all of `content` to a non-blocking descriptor. Raises `BrokenPipeError`."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            await writable(descriptor)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
