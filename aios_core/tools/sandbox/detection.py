"""Find the isolation backend for this machine. Blocks: do not call it on an event loop.

No backend runs code unconfined: where none works, code does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aios_core.config import SandboxConfig
from aios_core.errors import SandboxUnavailable
from aios_core.tools.sandbox.backend import Availability, SandboxBackend
from aios_core.tools.sandbox.bubblewrap import Bubblewrap

MakeBackend = Callable[[SandboxConfig], SandboxBackend]


def _bubblewrap(config: SandboxConfig) -> SandboxBackend:
    return Bubblewrap(
        uid=config.uid, gid=config.gid, python=config.python, read_only=config.read_only
    )


#: The best first. Another backend (WebAssembly, gVisor, a remote machine) is one more entry.
BACKENDS: Final[Mapping[str, MakeBackend]] = {"bubblewrap": _bubblewrap}


def probe_backends(
    config: SandboxConfig, backends: Mapping[str, MakeBackend] = BACKENDS
) -> dict[str, tuple[SandboxBackend, Availability]]:
    """Try every isolation backend that the configuration permits, and return the findings."""
    names = tuple(backends) if config.backend == "auto" else (config.backend,)
    made = {name: backends[name](config) for name in names}
    return {name: (backend, backend.examine()) for name, backend in made.items()}


def select_backend(
    config: SandboxConfig, backends: Mapping[str, MakeBackend] = BACKENDS
) -> SandboxBackend:
    """Return the best isolation backend that works on this machine.

    Raises:
        SandboxUnavailable: none works; the message has the reason and a fix for each.
    """
    why = []
    names = tuple(backends) if config.backend == "auto" else (config.backend,)
    for name in names:
        backend = backends[name](config)
        if (availability := backend.examine()).is_available:
            return backend
        fix = f"; to fix it: {availability.fix}" if availability.fix else ""
        why.append(f"{name}: {availability.reason}{fix}")
    raise SandboxUnavailable(
        f"code is not run, because nothing on this machine can confine it ({'. '.join(why)})"
    )
