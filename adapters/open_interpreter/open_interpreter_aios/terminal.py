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


class TurnEnded(KeyboardInterrupt):
    """Ends a turn of Open Interpreter, which takes every other exception for code's output."""


class SandboxTerminal:
    """See the module. `stop` may be called from any thread.

    Args:
        agent: whose code it is.
        conversation: whose variables blocks of Python find.
        figures: where pictures go that blocks make.
        timeout_s: for each block, the wait for its turn and for an approval included; None: as
            long as the sandbox and the kernel allow.
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
        self._block: CodeBlockRun | None = None  # under way
        self._is_turn_over = False  # once the block has stopped

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
        """Run a block. Raises what the kernel refuses with; streaming, `TurnEnded` in its place."""
        if stream:
            return self._streamed(language, code, display)
        output = "".join(_shown(self._pieces(language, code), display))
        return [_console(output)]

    def stop(self) -> None:
        """Interrupt the code that runs, if any does."""
        if (block := self._block) is not None:
            block.stop()

    def end_turn(self) -> bool:
        """Stop the code that runs, and end the turn with it. Whether any does."""
        self._is_turn_over = self._block is not None
        self.stop()
        return self._is_turn_over

    def terminate(self) -> None:
        """Stop, and forget the variables."""
        self.stop()
        for agent in tuple(self._served):
            try:
                agent.tools.run(END_TOOL, {"conversation": self._conversation})
            except KernelError as exc:  # the agent or the kernel is gone, and the session with it
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
        """What a block says, as it comes. Left before its end, it is stopped."""
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
    """The same, printed if that is what `display` asks for."""
    for piece in pieces:
        if display:
            print(piece, end="", flush=True)  # noqa: T201 - see above
        yield piece
