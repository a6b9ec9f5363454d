"""Run Python and shell code on the agent's files, only ever in the sandbox."""

from __future__ import annotations

from typing import Literal

from aios_core import ToolContext, ToolError, tool


@tool(runs_code=True, irreversible="runs untrusted code")
async def python(code: str, context: ToolContext) -> str:
    """Run Python code on your files and return what it prints.

    Args:
        code: a program that prints its results.
    """
    return await _run("python", code, context)


@tool(runs_code=True, irreversible="runs untrusted code")
async def shell(command: str, context: ToolContext) -> str:
    """Run a shell command on your files and return what it prints.

    Args:
        command: for sh.
    """
    return await _run("shell", command, context)


async def _run(language: Literal["python", "shell"], code: str, context: ToolContext) -> str:
    """Run code and return what it prints.

    Raises:
        SandboxUnavailable: this machine cannot confine code.
        ToolError: the exit status is not 0.
    """
    result = await context.code_runner.run_for(
        context.caller, language, code, labels=context.labels
    )
    output = "\n".join(part.rstrip() for part in (result.stdout, result.stderr) if part.strip())
    if result.notice:
        output = f"{output}\n{result.notice}".strip()
    if result.exit_code:
        raise ToolError(context.tool, f"exit status {result.exit_code}: {output}")
    return output
