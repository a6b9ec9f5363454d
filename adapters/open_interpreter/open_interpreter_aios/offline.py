"""What has to be said before Open Interpreter imports LiteLLM. Imports nothing of either."""

from __future__ import annotations

import os
from types import ModuleType

from aios_core.launch import Patches


def stay_offline(_: ModuleType, __: Patches) -> None:
    """Let LiteLLM read the table of prices that it ships, instead of fetching one on import.

    Open Interpreter sets the same variable, after the import.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
