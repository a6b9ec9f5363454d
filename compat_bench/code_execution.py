"""Run the code of a task: natively without confinement, or in the kernel's sandbox.

Natively nothing confines it; it runs in a process of its own, in an empty directory, for at
most ten seconds. What it prints is the result, or the last line of what it complained of.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from tempfile import TemporaryDirectory
from typing import Any, Final

from aios_core import InvalidRequest, SandboxUnavailable, Tool, ToolContext
from aios_core.tools.sandbox import Sandbox

TIMEOUT_S: Final = 10.0

Execute = Callable[[str, str], Awaitable[str]]  # language, code -> the text for the model


def said_of(exit_code: int, stdout: str, stderr: str) -> str:
    """Describe a result for the model, with equal wording on every system."""
    if not exit_code:
        return stdout.strip() or "ok"
    lines = stderr.strip().splitlines()
    return f"error: {lines[-1] if lines else f'exit code {exit_code}'}"


async def run_plainly(language: str, code: str) -> str:
    """Python code in a process of its own, as frameworks' own interpreters run it."""
    if language.lower() not in {"python", "py"}:
        return f"error: no language {language}"
    with TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            code,
            cwd=directory,
            env={"PATH": os.defpath},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            return f"error: no end after {TIMEOUT_S:.0f} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return said_of(int(process.returncode or 0), stdout.decode(), stderr.decode())


def execute_tool(name: str, description: str, note: Callable[[dict[str, Any]], object]) -> Tool:
    """Build the kernel's tool `execute(language, code)`. `note` is called with each call."""

    async def execute(language: str, code: str, context: ToolContext) -> str:
        note({"language": language, "code": code})
        if language.lower() not in {"python", "py"}:
            return f"error: no language {language}"
        try:
            result = await context.code_runner.run_for(
                context.caller, "python", code, labels=context.labels
            )
        except InvalidRequest as exc:
            return f"error: {exc}"
        return said_of(result.exit_code, result.stdout, result.stderr)

    text = {"type": "string"}
    schema = {
        "type": "object",
        "properties": {"language": text, "code": text},
        "required": ["language", "code"],
    }
    return Tool(name, description, schema, execute, repairs=False, context_name="context")


async def sandbox_refusal() -> str:
    """Why no code runs on the kernel on this machine; "" if it does."""
    sandbox = Sandbox()
    try:
        await sandbox.examine()
    except SandboxUnavailable as exc:
        return str(exc)
    finally:
        await sandbox.close()
    return ""
