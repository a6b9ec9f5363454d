"""Keep LiteLLM offline; runs before Open Interpreter imports it. Imports neither."""

from __future__ import annotations

import os
from types import ModuleType

from aios_core.launch import Patches


def stay_offline(_: ModuleType, __: Patches) -> None:
    """Make LiteLLM read its bundled table of prices, instead of fetching one at import.

    Open Interpreter sets the same variable, after the import.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
