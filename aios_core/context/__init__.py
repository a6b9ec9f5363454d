"""Switch contexts: keep what is needed to continue interrupted generations and idle agents.

    switcher     `ContextSwitcher`: keep snapshots, and move KV images between memory tiers
    placement    decide which image moves to which tier (pure functions)
    saved_agent  write a frozen agent to a directory, and read it back in another process

When a call is interrupted is decided in `aios_core.scheduler`. A core makes its snapshots and
continues from them; their type is in `aios_core.snapshot`.
"""

from aios_core.context.saved_agent import SavedAgent, SavedCall, require_savable
from aios_core.context.switcher import ContextSwitcher

__all__ = ["ContextSwitcher", "SavedAgent", "SavedCall", "require_savable"]
