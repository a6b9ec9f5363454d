"""Which tiers there are, and which of them this machine has. Blocks: not for an event loop.

There is no last row that confines nothing: where no tier works, code does not run.
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


#: The best first. A further tier (WebAssembly, gVisor, a remote machine) is a row.
TIERS: Final[Mapping[str, MakeTier]] = {"bubblewrap": _bubblewrap}


def survey(
    config: SandboxConfig, tiers: Mapping[str, MakeTier] = TIERS
) -> dict[str, tuple[Tier, Availability]]:
    """Every tier that the configuration permits, tried."""
    names = tuple(tiers) if config.tier == "auto" else (config.tier,)
    made = {name: tiers[name](config) for name in names}
    return {name: (tier, tier.examine()) for name, tier in made.items()}


def choose(config: SandboxConfig, tiers: Mapping[str, MakeTier] = TIERS) -> Tier:
    """The best tier that works here.

    Raises:
        SandboxUnavailable: none does; it says of each why, and how to get it.
    """
    why = []
    names = tuple(tiers) if config.tier == "auto" else (config.tier,)
    for name in names:
        tier = tiers[name](config)
        if (availability := tier.examine()).is_there:
            return tier
        mend = f"; to get it: {availability.mend}" if availability.mend else ""
        why.append(f"{name}: {availability.said}{mend}")
    raise SandboxUnavailable(
        f"code is not run, because nothing here confines it ({'. '.join(why)})"
    )
