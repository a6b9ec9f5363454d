"""Waiting for descriptors on an event loop. One waiter for each descriptor and direction."""

from __future__ import annotations

import asyncio
import os
from typing import Final

_CHUNK: Final = 1 << 16  # bytes; a pipe's size


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or its end. A pidfd: until its process has ended."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Wait until there is room, or nobody who reads."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


async def read(descriptor: int) -> bytes:
    """What is there, once something is; nothing at the end. The descriptor is non-blocking."""
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:
            await readable(descriptor)


async def write(descriptor: int, content: bytes) -> None:
    """Write all of it to a non-blocking descriptor. Raises `BrokenPipeError`."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            await writable(descriptor)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
