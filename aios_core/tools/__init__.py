"""Tools: functions that agents run through the kernel, and the plug-ins that offer them.

    tool        `Tool`, and the decorator `tool` that makes one from a function
    context     what a running tool knows of its call
    hookspecs   the interface of plug-ins
    handle      `Tools`: `agent.tools`
    manager     `ToolManager`: serve the syscalls of `requests`
    registry    the tools that there are; `catalog`, `sources`, `import_code` load and unload them
    mcp         tools of MCP servers, with `mcp_session` and `mcp_transports`
    signature   derive a schema from a function; `validation` checks arguments against it
    scheduler   which tool call runs next, with `tool_queue` and `circuit_breaker`
    dispatcher  carry that out; `executor` runs one call, `attempt` one attempt of it
    thread_pool threads for tools; `process_pool`, `tool_process`, `process_main` for processes
    journal     the effect journal: which calls took effect, also after a crash
    results     results that are too large for an answer
    labeling    pass an agent's labels to the code that its tools run
    sandbox     run untrusted code confined

Smaller modules: `load_limit`, `function_origin`, `tool_port`, `protocols`, `schema_processes` and
`strict_json`. The bundled tools are plug-ins of their own (`aios_plugins`).
"""

from aios_core.tools.context import ToolContext
from aios_core.tools.handle import Tools
from aios_core.tools.hookspecs import hookimpl
from aios_core.tools.manager import ToolManager
from aios_core.tools.registry import ToolRegistry
from aios_core.tools.requests import (
    DoubtfulCall,
    McpServer,
    StoredResult,
    ToolInDoubtList,
    ToolInfo,
    ToolList,
    ToolLoad,
    ToolRead,
    ToolResolve,
    ToolRun,
    ToolUnload,
)
from aios_core.tools.tool import Rate, Tool, ToolDeclaration, tool

__all__ = [
    "DoubtfulCall",
    "McpServer",
    "Rate",
    "StoredResult",
    "Tool",
    "ToolContext",
    "ToolDeclaration",
    "ToolInDoubtList",
    "ToolInfo",
    "ToolList",
    "ToolLoad",
    "ToolManager",
    "ToolRead",
    "ToolRegistry",
    "ToolResolve",
    "ToolRun",
    "ToolUnload",
    "Tools",
    "hookimpl",
    "tool",
]
