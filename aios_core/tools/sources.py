"""Load tools from installed plug-ins, modules, files and functions.

All functions here run third-party code and may block: call them on a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from aios_core.errors import InvalidRequest, NoSuchObject
from aios_core.tools.function_origin import require_attribute
from aios_core.tools.hookspecs import ENTRY_POINTS
from aios_core.tools.import_code import load_file, load_module, tools_of
from aios_core.tools.registry import Plugin
from aios_core.tools.requests import is_path, source_name
from aios_core.tools.tool import Tool
from aios_core.tools.tool import tool as make_tool


def installed_plugins(names: tuple[str, ...] | None) -> Iterator[EntryPoint]:
    """Return the entry points of the group `aios.plugins`, those of the given names or all.

    Raises:
        NoSuchObject: a named plug-in is not installed.
    """
    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: (entry.name, entry.value))
    if names is None:
        yield from found
        return
    for name in names:
        chosen = [entry for entry in found if entry.name == name]
        if not chosen:
            raise NoSuchObject("plug-in", name, {entry.name for entry in found})
        yield from chosen


def load_entry_point(entry: EntryPoint, *, fresh: bool = False) -> Plugin:
    """Load an installed plug-in. Raises what `load_module` and `tools_of` raise."""
    plugin: object = load_module(entry.module, fresh=fresh)
    try:
        for attribute in filter(None, (entry.attr or "").split(".")):
            plugin = getattr(plugin, attribute)
    except AttributeError as exc:
        raise InvalidRequest(f"entry point {entry.name!r} names {entry.value}: {exc}") from exc
    owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    return Plugin(_key(entry), f"plug-in {entry.name} of {owner}", tools_of(plugin))


def load(source: str | Path | Tool | Callable[..., Any], *, fresh: bool = True) -> Plugin:
    """Load a file, a module, an installed plug-in, or one function.

    A text with a slash, or that ends with ".py", is a path; any other text is the name of a
    module or of an entry point.

    Raises:
        NoSuchObject: there is no such file or module.
        ToolError: loading it raises.
        InvalidRequest: it offers no tools, or something other than tools.
    """
    if isinstance(source, str) and not is_path(source):
        for entry in entry_points(group=ENTRY_POINTS):
            if source in (entry.name, _key(entry)):
                return load_entry_point(entry, fresh=fresh)
        return Plugin(source, f"module {source}", tools_of(load_module(source, fresh=fresh)))
    if isinstance(source, str | Path):
        path = str(Path(source).expanduser().absolute())
        return Plugin(path, f"file {path}", tools_of(load_file(path)))
    if isinstance(source, Tool) or callable(source):
        one = source if isinstance(source, Tool) else make_tool(source)
        if one.isolation == "process":
            require_attribute(one)
        named = source_name(one)
        return Plugin(f"{named} as {one.id}", named, (one,))
    raise InvalidRequest(
        f"source of tools: got {source!r:.100}; allowed: a file, a module or a function"
    )


def _key(entry: EntryPoint) -> str:
    return f"plug-in {entry.name} ({entry.value})"
