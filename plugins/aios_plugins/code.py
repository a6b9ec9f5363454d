"""Python and shell code in the sandbox, on the agent's files. Nowhere else, ever."""

from __future__ import annotations

from typing import Literal

from aios_core import ToolContext, ToolError, tool


@tool(runs_code=True, irreversible="runs code that nobody has read")
async def python(code: str, context: ToolContext) -> str:
    """Run Python code on your files and return what it prints.

    Args:
        code: a program; it prints its results.
    """
    return await _run("python", code, context)


@tool(runs_code=True, irreversible="runs code that nobody has read")
async def shell(command: str, context: ToolContext) -> str:
    """Run a shell command on your files and return what it prints.

    Args:
        command: for sh.
    """
    return await _run("shell", command, context)


async def _run(language: Literal["python", "shell"], code: str, context: ToolContext) -> str:
    """What it printed. Raises `SandboxUnavailable` where nothing confines it, else `ToolError`."""
    result = await context.code_runner.run_for(
        context.caller, language, code, labels=context.labels
    )
    said = "\n".join(part.rstrip() for part in (result.stdout, result.stderr) if part.strip())
    if result.notice:
        said = f"{said}\n{result.notice}".strip()
    if result.exit_code:
        raise ToolError(context.tool, f"exit status {result.exit_code}: {said}")
    return said
