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
from aios_core.tools.sandbox.backend import DOCUMENTS, Confined, Program, Tier
from aios_core.tools.sandbox.file_sync import Mirror
from aios_core.tools.sandbox.limits import Limits
from aios_core.tools.sandbox.result import ExecutionResult, FileChanges, KilledBy, OnOutput
from aios_core.tools.sandbox.supervised import Box

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
    tier: Tier,
    language: Language,
    code: str,
    limits: Limits,
    packages: Mapping[str, str] | None = None,
) -> Program:
    """Return the program that runs `code`. Raises `InvalidRequest` for an unknown language."""
    source = encoded(code)
    match language:
        case "python":
            argv: tuple[str, ...] = (tier.python, f"{DOCUMENTS}/main.py")
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
    tier: Tier,
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
    mirrors: list[Mirror] = []

    def prepare(confined: Confined) -> None:
        if files is not None:
            mirrors.append(Mirror(files, confined.work, limits))
            mirrors[0].push()

    box = await Box.start(tier, program, threads, prepare=prepare)
    began = loop.time()
    feeding = asyncio.create_task(box.feed(stdin), name="sandbox: stdin")
    try:
        box.stdout.listen(on_output)
        box.stderr.listen(on_output)
        status = await _end(box, limits.wall_s)
        duration_s = loop.time() - began
        await asyncio.gather(box.stdout.end(), box.stderr.end())
        changes = FileChanges()
        if mirrors:
            changes = await box.blocking(partial(mirrors[0].pull, is_last=True))
        stdout, stderr = box.stdout.take(), box.stderr.take()
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        await box.close()
    if box.killed_by is None and status == _CPU_EXCEEDED:
        box.killed_by = KilledBy.CPU
    return ExecutionResult(
        stdout=stdout[0],
        stderr=stderr[0],
        exit_code=status,
        duration_s=duration_s,
        killed_by=box.killed_by,
        truncated=stdout[1] or stderr[1],
        notice=notice_of(box.killed_by, limits),
        files=changes,
    )


async def _end(box: Box, wall_s: float) -> int:
    try:
        async with asyncio.timeout(wall_s):
            return await box.wait()
    except TimeoutError:
        box.kill(KilledBy.WALL)
        return await box.wait()


def notice_of(killed_by: KilledBy | None, limits: Limits) -> str | None:
    """Return the reason why a program was ended, for the author of the code; None if it was not."""
    told = {
        KilledBy.WALL: f"it was still running after {limits.wall_s:g} s",
        KilledBy.CPU: f"it used more than {limits.cpu_s} s of processor time",
        KilledBy.MEMORY: f"it used more than {limits.memory_bytes:,} bytes of memory",
        KilledBy.DISK: f"it created more than {limits.files:,} files",
        KilledBy.OUTPUT: f"it wrote far more than {limits.output_bytes:,} bytes",
    }
    return f"ended: {told[killed_by]}" if killed_by in told else None
