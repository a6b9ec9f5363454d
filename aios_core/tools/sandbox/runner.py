"""Run a program in the sandbox to its end. Runs on one event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

from aios_core.errors import InvalidRequest
from aios_core.tools.sandbox import packages as sandbox_packages
from aios_core.tools.sandbox.backend import DOCUMENTS, Confined, Program, SandboxBackend
from aios_core.tools.sandbox.file_sync import FileSync
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.result import ExecutionResult, FileChanges, KilledBy, OnOutput
from aios_core.tools.sandbox.supervised import SupervisedProcess

Language = Literal["python", "shell"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)

PYTHON_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",  # output arrives when it is written
    **sandbox_packages.ENVIRONMENT,
}
_CPU_EXCEEDED: Final = 128 + signal.SIGXCPU


def program_for(
    backend: SandboxBackend,
    language: Language,
    code: str,
    limits: SandboxLimits,
    packages: Mapping[str, str] | None = None,
) -> Program:
    """Return the program that runs `code`. Raises `InvalidRequest` for an unknown language."""
    source = encoded(code)
    match language:
        case "python":
            argv: tuple[str, ...] = (backend.python, f"{DOCUMENTS}/main.py")
            name = "main.py"
        case "shell":
            argv = ("/bin/sh", f"{DOCUMENTS}/main.sh")
            name = "main.sh"
        case _:
            raise InvalidRequest(f"language: got {language!r}; allowed: {list(LANGUAGES)}")
    documents = {name: source, **sandbox_packages.documents()}
    return Program(argv, limits, documents, PYTHON_ENVIRONMENT, packages=packages or {})


def encoded(code: str) -> bytes:
    """Return code as UTF-8. Raises `InvalidRequest` if it cannot be encoded, or contains NUL."""
    if "\0" in code:
        raise InvalidRequest("code contains the character NUL, which is not allowed")
    try:
        return code.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequest("code contains lone surrogates, which are not allowed") from exc


async def run(
    backend: SandboxBackend,
    program: Program,
    threads: Executor,
    *,
    files: Path | None = None,
    stdin: bytes = b"",
    on_output: OnOutput | None = None,
) -> ExecutionResult:
    """Run a program until it ends or exceeds a limit. Cancelling kills all its processes."""
    loop = asyncio.get_running_loop()
    limits = program.limits
    syncs: list[FileSync] = []

    def prepare(confined: Confined) -> None:
        if files is not None:
            syncs.append(FileSync(files, confined.work, limits))
            syncs[0].push()

    process = await SupervisedProcess.start(backend, program, threads, prepare=prepare)
    began = loop.time()
    process.feed(stdin)
    try:
        process.stdout.listen(on_output)
        process.stderr.listen(on_output)
        status = await _end(process, limits.wall_s)
        duration_s = loop.time() - began
        await asyncio.gather(process.stdout.end(), process.stderr.end())
        changes = FileChanges()
        if syncs:
            changes = await process.blocking(partial(syncs[0].pull, is_last=True))
        stdout, stderr = process.stdout.take(), process.stderr.take()
    finally:
        await process.close()
    if process.killed_by is None and status == _CPU_EXCEEDED:
        process.killed_by = KilledBy.CPU
    return ExecutionResult(
        stdout=stdout[0],
        stderr=stderr[0],
        exit_code=status,
        duration_s=duration_s,
        killed_by=process.killed_by,
        truncated=stdout[1] or stderr[1],
        notice=notice_of(process.killed_by, limits),
        files=changes,
    )


async def _end(process: SupervisedProcess, wall_s: float) -> int:
    try:
        async with asyncio.timeout(wall_s):
            return await process.wait()
    except TimeoutError:
        process.kill(KilledBy.WALL)
        return await process.wait()


def notice_of(killed_by: KilledBy | None, limits: SandboxLimits) -> str | None:
    """Return the reason why a program was ended, for the author of the code; None if it was not."""
    reasons = {
        KilledBy.WALL: f"it was still running after {limits.wall_s:g} s",
        KilledBy.CPU: f"it used more than {limits.cpu_s} s of processor time",
        KilledBy.MEMORY: f"it used more than {limits.memory_bytes:,} bytes of memory",
        KilledBy.DISK: f"it created more than {limits.max_files:,} files",
        KilledBy.OUTPUT: f"it wrote far more than {limits.output_bytes:,} bytes",
    }
    return f"ended: {reasons[killed_by]}" if killed_by in reasons else None
