"""Tools: functions that agents run through the kernel, and the plug-ins that offer them.

`tool` makes a `Tool` from a function, `hookspecs` is the interface of plug-ins, `ToolManager`
serves the syscalls, and `Tools` is the handle `agent.tools`.
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
