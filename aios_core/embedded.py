"""The kernel of programs that never made one: started at first use, closed at exit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from aios_core.config import KernelConfig
from aios_core.core import Core
from aios_core.kernel import Kernel

_lock = threading.Lock()  # guards _kernel and _pid
_kernel: Kernel | None = None
_pid = 0


def default_kernel(*, cores: Callable[[], Sequence[Core]] | None = None) -> Kernel:
    """The embedded kernel of this process.

    Configured by `aios.toml` and the environment; without any configuration it
    serves the tiny model that comes with the project. After a fork the child gets
    a kernel of its own. Raises what `Kernel.start` raises.

    Args:
        cores: makes other cores than the tiny model's for a kernel without any configured.
    """
    global _kernel, _pid
    with _lock:
        if _kernel is None or _pid != os.getpid():
            kernel = (_with(cores) if cores else Kernel()).start()  # which is closed at exit
            _kernel, _pid = kernel, os.getpid()
        return _kernel


def _with(cores: Callable[[], Sequence[Core]]) -> Kernel:
    config = KernelConfig.load()
    return Kernel(config, cores=None if config.cores else cores())


def set_default_kernel(kernel: Kernel | None) -> Kernel | None:
    """Let `default_kernel` answer with this one (the caller keeps its life). Returns the former.

    None makes the next `default_kernel` start a new one.
    """
    global _kernel, _pid
    with _lock:
        former = _kernel if _pid == os.getpid() else None
        _kernel, _pid = kernel, os.getpid()
        return former
