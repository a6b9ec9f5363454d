"""A detector of blocking calls on event loops, such as `langgraph dev` has one."""

from __future__ import annotations

import asyncio
import builtins
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import CodeType, FrameType
from typing import Any

_BLOCKING: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("stat", "listdir", "scandir", "mkdir", "rename", "replace")),
    *(
        (os, name)
        for name in ("remove", "unlink", "rmdir", "access", "readlink", "fsync", "getcwd")
    ),
    (builtins, "open"),
    (io, "open"),
    (shutil, "rmtree"),
    (socket, "create_connection"),
    (socket, "getaddrinfo"),
    (subprocess, "Popen"),
    (time, "sleep"),
    (threading.Thread, "join"),
)
_IMPORTING = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_ALLOWED = ("linecache.py", "_pytest/assertion/rewrite.py", "coverage/")


@contextmanager
def blocking_calls() -> Iterator[list[str]]:
    """Note every call of a function that may block while a loop runs on its thread."""
    found: list[str] = []
    kept = [(owner, name, getattr(owner, name)) for owner, name in _BLOCKING]
    for owner, name, function in kept:
        setattr(owner, name, _noted(function, f"{owner.__name__}.{name}", found))
    try:
        yield found
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def _noted(function: Callable[..., Any], name: str, found: list[str]) -> Callable[..., Any]:
    @wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if asyncio._get_running_loop() is not None:
            frames = list(traceback.walk_stack(sys._getframe(1)))
            if not any(_may_block(frame.f_code) for frame, _ in frames):
                found.append(f"{name}: {' < '.join(map(_place, frames[:7]))}")
        return function(*args, **kwargs)

    return call


def _place(at: tuple[FrameType, int]) -> str:
    frame, line = at
    return f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"


def _may_block(code: CodeType) -> bool:
    if code.co_name == "shutdown_default_executor":  # of asyncio, when a loop has ended
        return True
    return code.co_filename in _IMPORTING or any(part in code.co_filename for part in _ALLOWED)
