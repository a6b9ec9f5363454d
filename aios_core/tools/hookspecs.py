"""The plug-in interface: one hook, `aios_tools`, that returns tools.

A plug-in is a module (or an object) that an installed distribution lists as an
entry point in the group `aios.plugins`:

    [project.entry-points."aios.plugins"]
    weather = "my_package.weather"

In the plug-in, `@hookimpl` marks its function `aios_tools`; a module without one offers
the tools that it defines with `@tool`.
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
    """Return the tools that this plug-in offers. Called at each load and reload."""
