"""The whole surface for plug-ins: one hook that returns tools.

A plug-in is a module (or an object) that an installed distribution names as an
entry point of the group `aios.plugins`:

    [project.entry-points."aios.plugins"]
    weather = "my_package.weather"

In it, `@hookimpl` marks an `aios_tools` of its own; a module without one offers
the tools that it made with `@tool`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pluggy

from aios_core.tools.tool import Tool

PROJECT: Final = "aios"
ENTRY_POINTS: Final = "aios.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def aios_tools() -> Iterable[Tool]:  # type: ignore[empty-body]
    """The tools that this plug-in offers; called each time that it is loaded or reloaded."""
