"""The kernel of programs that never made one: started at first use, closed at exit.

A forked child has none of its parent's kernels: their loops and threads live in the
parent. It is served by a new kernel of the same configuration, or refused if the
program gave its kernel what cannot be had twice; never by another model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from aios_core.config import KernelConfig
from aios_core.core import Core
from aios_core.fork_safety import free_after_fork
from aios_core.kernel.kernel import Kernel

CoreFactory = Callable[[], Sequence[Core]]

_lock = free_after_fork(threading.Lock())  # guards what follows
_kernel: Kernel | None = None
_is_own = False  # `_kernel` was started here
_factory: CoreFactory | None = None  # of the cores of `_kernel`, if it was started with one
_pid = 0


def default_kernel(*, cores: CoreFactory | None = None) -> Kernel:
    """Return the default kernel of this process; start it if necessary.

    Configured by `aios.toml` and the environment; without any configuration it
    serves the bundled model. After a fork the child gets
    a kernel of its own, configured as its parent's was.

    Args:
        cores: makes other cores than the tiny model's for a kernel without any configured.

    Raises:
        KernelClosed: this is a forked child, and the parent's kernel (see
            `set_default_kernel`) was given what a second one cannot have.
        KernelError: what `Kernel.start` raises.
    """
    global _kernel, _is_own, _factory, _pid  # noqa: PLW0603 - one for the process
    with _lock:
        if _kernel is None:
            kernel, factory = _made(KernelConfig.load(), cores), cores
        elif _pid != os.getpid():
            factory = _factory
            kernel = _made(_kernel.config, factory) if _is_own else _kernel.copy_for_fork()
        else:
            return _kernel
        _kernel, _is_own, _factory = kernel.start(), True, factory  # it is closed at exit
        _pid = os.getpid()
        return _kernel


def _made(config: KernelConfig, cores: CoreFactory | None) -> Kernel:
    return Kernel(config, cores=cores() if cores and not config.cores else None)


def set_default_kernel(kernel: Kernel | None) -> Kernel | None:
    """Make this kernel the default one. Returns the former; the caller still closes both.

    None makes the next `default_kernel` start a new one. In a forked child, `default_kernel`
    starts one of the same configuration; if this one was given cores, an embedder, a
    gatekeeper or an approver as objects, it is refused there (`KernelClosed`), and the
    child sets a kernel of its own.
    """
    global _kernel, _is_own, _factory, _pid
    with _lock:
        former = _kernel if _pid == os.getpid() else None
        _kernel, _is_own, _factory, _pid = kernel, False, None, os.getpid()
        return former
