"""Read and write the agent's own files, which are versioned and bounded by its quota."""

from __future__ import annotations

from aios_core import ToolContext, tool
from aios_core.storage import Storage


@tool(read_only=True, trusted=True)
def read_file(path: str, context: ToolContext) -> str:
    """Read a text file.

    Args:
        path: of the file, such as "notes/today.txt".
    """
    content = Storage(context.port).read(path)
    return content.decode(errors="replace") if isinstance(content, bytes) else str(content)


@tool(trusted=True)
def write_file(path: str, text: str, context: ToolContext) -> str:
    """Write a text file; its earlier content can be restored.

    Args:
        path: of the file, such as "notes/today.txt".
        text: all of its content.
    """
    Storage(context.port).write(path, text)
    return f"written to {path}"


@tool(read_only=True, trusted=True)
def list_files(context: ToolContext, folder: str = "/") -> list[str]:
    """List the files in a folder.

    Args:
        folder: such as "notes".
    """
    return [entry.path for entry in Storage(context.port).list(folder)]
