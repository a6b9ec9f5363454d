"""Context switching: snapshots of interrupted generations, and the tiers that hold them."""

from aios_core.context.saved_agent import SavedAgent, SavedCall, require_savable
from aios_core.context.switcher import ContextSwitcher

__all__ = ["ContextSwitcher", "SavedAgent", "SavedCall", "require_savable"]
