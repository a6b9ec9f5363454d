"""Run Open Interpreter's code in the kernel's sandbox, in place of its terminal.

The terminal replaces `interpreter.computer.terminal`, by which Open Interpreter runs all
its code on the host: blocks of a model, templates in a system message, `computer.run` and
`computer.exec`. Each block is a tool syscall of the interpreter's agent: validated,
approved, limited, audited.

A refusal is always written to the output. Then:

    denied by a person or a rule       the turn ends
    no sandbox, killed, closed         the turn ends, and `chat` raises the error
    an error a model can act on        the model continues

Promise: nothing here runs code on the host.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any, Final
from weakref import WeakSet

from aios_adapters import MODEL_VISIBLE_ERRORS
from aios_core import Agent
from aios_core.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidRequest,
    KernelError,
    SandboxUnavailable,
)
from open_interpreter_aios.code_block import CodeBlockRun
from open_interpreter_aios.code_tools import END_SESSION, END_TOOL, RUN_CODE, TOOL, reading
from open_interpreter_aios.figures import Figures
from open_interpreter_aios.interpreter_agent import InterpreterAgent

log = logging.getLogger(__name__)

_HINT: Final = (
    "Code blocks run in a sandbox without network. Python's variables and the files in the "
    "working directory stay from one block to the next."
)

_numbers = count(1)

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SandboxLanguage:
    """A language as Open Interpreter describes it, with its name in the sandbox."""

    name: str
    aliases: tuple[str, ...]
    file_extension: str
    kernel_name: str
    system_message: str = ""


LANGUAGES: Final = (
    SandboxLanguage("Python", ("py", "python3"), "py", "python", _HINT),
    SandboxLanguage("Shell", ("bash", "sh", "zsh"), "sh", "shell"),
)


class TurnEnded(KeyboardInterrupt):
    """Ends a turn. Open Interpreter treats every other exception as output of the code."""


class SandboxTerminal:
    """A terminal that runs code in the kernel's sandbox. `stop` may be called from any thread.

    Args:
        agent: the interpreter's agent, which runs the code.
        conversation: the conversation that keeps the variables of Python.
        figures: exports the pictures that blocks make.
        timeout_s: seconds for each block, including the wait in the queue and for an approval;
            None: as long as the sandbox and the kernel allow.
    """

    def __init__(
        self,
        agent: InterpreterAgent,
        conversation: str,
        figures: Figures,
        timeout_s: float | None = None,
    ) -> None:
        self._agent = agent
        self._figures = figures
        self._conversation = conversation
        self._timeout_s = timeout_s
        self._number = next(_numbers)
        self._languages: list[SandboxLanguage] = list(LANGUAGES)
        self._served: WeakSet[Agent] = WeakSet()
        self._block: CodeBlockRun | None = None  # running
        self._is_turn_over = False  # once the block has stopped

    @property
    def languages(self) -> list[SandboxLanguage]:
        """The languages that a model may use; a program may remove some."""
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
        """Return the language of a name or alias; None if it is not supported."""
        asked = language.lower()
        for one in self._languages:
            if asked in (one.name.lower(), *one.aliases):
                return one
        return None

    def run(
        self, language: str, code: str, stream: bool = False, display: bool = False
    ) -> Iterator[Chunk] | list[Chunk]:
        """Run a block. A refusal raises the kernel's error, or `TurnEnded` while streaming."""
        if stream:
            return self._streamed(language, code, display)
        output = "".join(_shown(self._pieces(language, code), display))
        return [_console(output)]

    def stop(self) -> None:
        """Interrupt the running code, if any."""
        if (block := self._block) is not None:
            block.stop()

    def end_turn(self) -> bool:
        """Stop the running code and end the turn. Returns whether code was running."""
        self._is_turn_over = self._block is not None
        self.stop()
        return self._is_turn_over

    def terminate(self) -> None:
        """Stop the running code, and delete the variables."""
        self.stop()
        for agent in tuple(self._served):
            try:
                agent.tools.run(END_TOOL, {"conversation": self._conversation})
            except KernelError as exc:  # the exit or close has ended the session
                log.info("the session of %r was not ended: %s", self._conversation, exc)
        self._served.clear()

    def _streamed(self, language: str, code: str, display: bool) -> Iterator[Chunk]:
        self._is_turn_over = False
        try:
            with closing(self._pieces(language, code)) as pieces:
                yield from map(_console, _shown(pieces, display))
        except AccessDenied as exc:
            yield _console(_said(exc))
            raise TurnEnded(str(exc)) from exc
        except SandboxUnavailable as exc:
            yield self._failed(exc)
            raise TurnEnded(str(exc)) from exc
        except (*MODEL_VISIBLE_ERRORS, DeadlineExceeded) as exc:
            yield from map(_console, _shown([_said(exc)], display))
        except KernelError as exc:
            yield self._failed(exc)
            raise TurnEnded(str(exc)) from exc
        if self._is_turn_over:
            raise TurnEnded("the turn was ended")

    def _failed(self, error: KernelError) -> Chunk:
        self._agent.failure = error
        return _console(_said(error))

    def _pieces(self, language: str, code: str) -> Generator[str]:
        """Yield the output of a block as it arrives. Closing this early stops the block."""
        known = self.get_language(language)
        if known is None:
            names = [one.name for one in self._languages]
            raise InvalidRequest(f"language: got {language!r}; allowed: {names}")
        arguments = {
            "language": known.kernel_name,
            "code": code,
            "conversation": self._conversation,
            "interpreter": self._number,
        }
        with (
            self._agent.use() as agent,
            ThreadPoolExecutor(1, "aios-interpreter-code") as thread,
        ):
            self._serve(agent)
            block = self._block = reading[self._number] = CodeBlockRun()
            work = agent.tools.arun(TOOL, arguments, timeout_s=self._timeout_s)
            future = thread.submit(block.run, work)
            try:
                yield from block
                future.result()
                yield from self._figures.export(agent, block.figures)
            except BaseException:
                block.stop()
                raise
            finally:
                self._block = None

    def _serve(self, agent: Agent) -> None:
        if agent not in self._served:
            agent.tools.offer(RUN_CODE)
            agent.tools.offer(END_SESSION)
            self._served.add(agent)


def _console(output: str) -> Chunk:
    return {"type": "console", "format": "output", "content": output}


def _said(error: KernelError) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(pieces: Iterable[str], display: bool) -> Iterator[str]:
    """Yield the pieces, and print them if `display` is set."""
    for piece in pieces:
        if display:
            print(piece, end="", flush=True)  # noqa: T201 - see above
        yield piece
