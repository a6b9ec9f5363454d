"""Find the isolation backend for this machine. Blocks: do not call it on an event loop.

No backend runs code unconfined: where none works, code does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aios_core.config import SandboxConfig
from aios_core.errors import SandboxUnavailable
from aios_core.tools.sandbox.backend import Availability, Tier
from aios_core.tools.sandbox.bubblewrap import Bubblewrap

MakeTier = Callable[[SandboxConfig], Tier]


def _bubblewrap(config: SandboxConfig) -> Tier:
    return Bubblewrap(
        uid=config.uid, gid=config.gid, python=config.python, read_only=config.read_only
    )


#: The best first. Another backend (WebAssembly, gVisor, a remote machine) is one more entry.
TIERS: Final[Mapping[str, MakeTier]] = {"bubblewrap": _bubblewrap}


def survey(
    config: SandboxConfig, tiers: Mapping[str, MakeTier] = TIERS
) -> dict[str, tuple[Tier, Availability]]:
    """Try every isolation backend that the configuration permits, and return the findings."""
    names = tuple(tiers) if config.tier == "auto" else (config.tier,)
    made = {name: tiers[name](config) for name in names}
    return {name: (tier, tier.examine()) for name, tier in made.items()}


def choose(config: SandboxConfig, tiers: Mapping[str, MakeTier] = TIERS) -> Tier:
    """Return the best isolation backend that works on this machine.

    Raises:
        SandboxUnavailable: none works; the message has the reason and a fix for each.
    """
    why = []
    names = tuple(tiers) if config.tier == "auto" else (config.tier,)
    for name in names:
        tier = tiers[name](config)
        if (availability := tier.examine()).is_there:
            return tier
        mend = f"; to fix it: {availability.mend}" if availability.mend else ""
        why.append(f"{name}: {availability.said}{mend}")
    raise SandboxUnavailable(
        f"code is not run, because nothing on this machine can confine it ({'. '.join(why)})"
    )
