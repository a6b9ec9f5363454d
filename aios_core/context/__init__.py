"""Context switching: snapshots of interrupted generations, and the tiers that hold them."""

from aios_core.context.saved_agent import FrozenAgent, FrozenCall, require_savable
from aios_core.context.switcher import ContextSwitcher

__all__ = ["ContextSwitcher", "FrozenAgent", "FrozenCall", "require_savable"]
