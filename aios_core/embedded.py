"""The kernel of programs that never made one: started at first use, closed at exit."""

from __future__ import annotations

import atexit
import os
import threading

from aios_core.kernel import Kernel

_lock = threading.Lock()  # guards _kernel and _pid
_kernel: Kernel | None = None
_pid = 0


def default_kernel() -> Kernel:
    """The embedded kernel of this process.

    Configured by `aios.toml` and the environment; without any configuration it
    serves the tiny model that comes with the project. After a fork the child gets
    a kernel of its own. Raises what `Kernel.start` raises.
    """
    global _kernel, _pid  # noqa: PLW0603 - the one place with a process-wide kernel
    with _lock:
        if _kernel is None or _pid != os.getpid():
            kernel = Kernel().start()
            atexit.register(kernel.close)
            _kernel, _pid = kernel, os.getpid()
        return _kernel


def set_default_kernel(kernel: Kernel | None) -> Kernel | None:
    """Let `default_kernel` answer with this one (the caller keeps its life). Returns the former.

    None makes the next `default_kernel` start a new one.
    """
    global _kernel, _pid  # noqa: PLW0603
    with _lock:
        former = _kernel if _pid == os.getpid() else None
        _kernel, _pid = kernel, os.getpid()
        return former
