"""What `aios tools check` looks at: whether a kernel would take a plug-in, and what is odd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from aios_core.cli.findings import Finding, Health
from aios_core.errors import Conflict, KernelError
from aios_core.tools.catalog import ToolCatalog
from aios_core.tools.function_origin import FunctionOrigin
from aios_core.tools.registry import Plugin, compile_tools
from aios_core.tools.sources import load
from aios_core.tools.tool import Tool
from aios_core.untrusted.third_party import places_of

_AREA: Final = "plug-in"


async def examined(catalog: ToolCatalog, source: str) -> AsyncIterator[Finding]:
    """Everything, in order. Runs the plug-in's code, as loading it does."""
    try:
        plugin = await asyncio.to_thread(load, source)
    except KernelError as exc:
        yield _broken(source, str(exc), _place(exc))
        return
    yield Finding(_AREA, plugin.source, Health.OK, f"offers {len(plugin.tools)} tools")
    sound = True
    for tool in plugin.tools:
        for finding in _of_tool(plugin, tool):
            sound = sound and finding.health is not Health.ERROR
            yield finding
    if sound:
        async for finding in _clashes(catalog, plugin):
            yield finding


def _of_tool(plugin: Plugin, tool: Tool) -> Iterator[Finding]:
    try:
        compile_tools(Plugin(plugin.key, plugin.source, (tool,)))
    except KernelError as exc:
        yield _broken(tool.id, str(exc), "its parameters are a JSON schema, draft 2020-12")
        return
    if tool.isolation == "process":
        try:
            FunctionOrigin.of(tool)
        except KernelError as exc:
            yield _broken(tool.id, str(exc))
            return
    yield Finding(_AREA, tool.id, Health.OK, "can be called")
    if not tool.description.strip():
        fix = "describe it in its docstring: a model chooses tools by description"
        yield Finding(_AREA, tool.id, Health.WARNING, "has no description", fix)
    properties: dict[str, Any] = tool.parameters.get("properties", {})
    undescribed = [
        name
        for name, schema in properties.items()
        if not (isinstance(schema, dict) and schema.get("description"))
    ]
    if undescribed:
        message = f"does not describe {', '.join(undescribed)}"
        fix = "describe it below `Args:` in the docstring"
        yield Finding(_AREA, tool.id, Health.WARNING, message, fix)


async def _clashes(catalog: ToolCatalog, plugin: Plugin) -> AsyncIterator[Finding]:
    """Return whether others offer the same, as this machine is configured."""
    try:
        await catalog.loaded()
    except KernelError as exc:
        yield Finding(_AREA, "configuration", Health.WARNING, str(exc), "aios tools list")
    registered_tools = await asyncio.to_thread(compile_tools, plugin)
    try:
        catalog.registry.put(plugin.key, registered_tools)
    except Conflict as exc:
        yield _broken(plugin.source, str(exc))


def _broken(name: str, message: str, fix: str = "") -> Finding:
    return Finding(_AREA, name, Health.ERROR, message, fix)


def _place(exc: KernelError) -> str:
    """Where in the plug-in's code it went wrong."""
    cause = exc.__cause__
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"in {cause.filename}, line {cause.lineno}"
    ours = str(Path(__file__).parents[1])
    places = places_of(cause) if cause is not None else []
    theirs = [(path, line) for path, line in places if not path.startswith((ours, "<frozen"))]
    return f"in {theirs[-1][0]}, line {theirs[-1][1]}" if theirs else ""
