"""Open Interpreter's terminal, in the kernel's sandbox.

It stands in the place of `interpreter.computer.terminal`, which is the one door by which
Open Interpreter runs code on the host: blocks of a model, templates in a system
message, `computer.run` and `computer.exec`. Each block is a tool syscall of the
interpreter's agent: validated, approved, limited, audited.

What becomes of a refusal:

    somebody, or a rule, says no      told in the output; the turn is over
    no sandbox here, killed, closed   told in the output; `chat` raises it
    what a model can act on           told in the output; the model goes on

Promise: nothing here runs code on the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

from aios_core import Agent, StoredResult
from aios_core.adapting import FOR_THE_MODEL
from aios_core.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidRequest,
    KernelError,
    SandboxUnavailable,
)
from open_interpreter_aios.code import RUN_CODE, TOOL
from open_interpreter_aios.seat import Seat

_HINT: Final = (
    "Each code block is a program of its own in a sandbox without network: import and define "
    "again what a block needs. Files in the working directory stay."
)

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SandboxLanguage:
    """A language as Open Interpreter looks at it, and what the sandbox calls it."""

    name: str
    aliases: tuple[str, ...]
    file_extension: str
    kernel_name: str
    system_message: str = ""


LANGUAGES: Final = (
    SandboxLanguage("Python", ("py", "python3"), "py", "python", _HINT),
    SandboxLanguage("Shell", ("bash", "sh", "zsh"), "sh", "shell"),
)


class TurnOver(KeyboardInterrupt):
    """Ends a turn of Open Interpreter, which takes every other exception for code's output."""


class SandboxTerminal:
    """See the module. `stop` may be called from any thread.

    Args:
        seat: whose code it is.
        timeout_s: for each block, the wait for its turn and for an approval included; None: as
            long as the sandbox and the kernel allow.
    """

    def __init__(self, seat: Seat, timeout_s: float | None = None) -> None:
        self._seat = seat
        self._timeout_s = timeout_s
        self._languages: list[SandboxLanguage] = list(LANGUAGES)
        self._served: WeakSet[Agent] = WeakSet()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    @property
    def languages(self) -> list[SandboxLanguage]:
        """Those that a model may use; a program may leave some of them away."""
        return self._languages

    @languages.setter
    def languages(self, wanted: Sequence[Any]) -> None:
        if strange := [one for one in wanted if one not in LANGUAGES]:
            names = [getattr(one, "name", one) for one in strange]
            known = [one.name for one in LANGUAGES]
            raise InvalidRequest(
                f"languages: got {names}; allowed: {known}, which the kernel's sandbox runs. "
                "`detach` the interpreter to run others past the kernel"
            )
        self._languages = list(wanted)

    def get_language(self, language: str) -> SandboxLanguage | None:
        """The language of a name or alias; None: it is not run."""
        asked = language.lower()
        for one in self._languages:
            if asked in (one.name.lower(), *one.aliases):
                return one
        return None

    def run(
        self, language: str, code: str, stream: bool = False, display: bool = False
    ) -> Iterator[Chunk] | list[Chunk]:
        """Run a block. Raises what the kernel refuses with; streaming, `TurnOver` in its place."""
        if stream:
            return self._streamed(language, code, display)
        output = self._output(language, code)
        _show(output, display)
        return [_console(output)]

    def stop(self) -> None:
        """Kill the code that runs, if any does."""
        if (running := self._running) is not None:
            loop, task = running
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(task.cancel)

    def terminate(self) -> None:
        """The same: no state is kept between blocks but the agent's files."""
        self.stop()

    def _streamed(self, language: str, code: str, display: bool) -> Iterator[Chunk]:
        try:
            output = self._output(language, code)
        except AccessDenied as exc:
            yield _console(_said(exc))
            raise TurnOver(str(exc)) from exc
        except SandboxUnavailable as exc:
            yield self._failed(exc)
            raise TurnOver(str(exc)) from exc
        except (*FOR_THE_MODEL, DeadlineExceeded) as exc:
            output = _said(exc)
        except KernelError as exc:
            yield self._failed(exc)
            raise TurnOver(str(exc)) from exc
        _show(output, display)
        if output:
            yield _console(output)

    def _failed(self, error: KernelError) -> Chunk:
        self._seat.failure = error
        return _console(_said(error))

    def _output(self, language: str, code: str) -> str:
        known = self.get_language(language)
        if known is None:
            names = [one.name for one in self._languages]
            raise InvalidRequest(f"language: got {language!r}; allowed: {names}")
        arguments = {"language": known.kernel_name, "code": code}
        with self._seat.taken() as agent:
            if agent not in self._served:
                agent.tools.offer(RUN_CODE)
                self._served.add(agent)
            try:
                result = self._wait(agent.tools.arun(TOOL, arguments, timeout_s=self._timeout_s))
            except asyncio.CancelledError:
                return "KeyboardInterrupt: the code was stopped"
        return str(result) if isinstance(result, StoredResult) else str(result["output"])

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Carry it out on a loop of its own, where `stop` and Ctrl-C can cancel it."""
        with ThreadPoolExecutor(1, "aios-interpreter-code") as thread:
            future = thread.submit(asyncio.run, self._stoppable(work))
            try:
                return future.result()
            except BaseException:
                self.stop()
                raise

    async def _stoppable(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(work)
        self._running = (asyncio.get_running_loop(), task)
        try:
            return await task
        finally:
            self._running = None


def _console(output: str) -> Chunk:
    return {"type": "console", "format": "output", "content": output}


def _said(error: KernelError) -> str:
    return f"{type(error).__name__}: {error}"


def _show(output: str, display: bool) -> None:
    if display and output:
        print(output, end="")  # noqa: T201 - what `display` asks for
