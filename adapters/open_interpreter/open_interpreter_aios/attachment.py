"""Attach an interpreter to one agent of the kernel.

    its model      `interpreter.llm.run` and `.completions`: LLM syscalls
    its code       `interpreter.computer.terminal`: tool syscalls, in the sandbox
    its history    `interpreter.messages` after each turn: a thread of the agent's memory
    the network    telemetry, contributing and update checks are off

Attributes of the instance are replaced, and `detach` restores all of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from aios_adapters import AgentSettings
from aios_core import Agent, Budget, Kernel
from aios_core.errors import InvalidRequest, KernelError
from aios_core.launch import Mode, Patches, give_notice
from open_interpreter_aios.completions import Completions, PassthroughCompletions
from open_interpreter_aios.figures import Figures
from open_interpreter_aios.history import History
from open_interpreter_aios.interpreter_agent import InterpreterAgent
from open_interpreter_aios.terminal import SandboxTerminal

log = logging.getLogger(__name__)

_ATTRIBUTE: Final = "aios"  # of an interpreter: its attachment

_OWN_COMPLETIONS: Final = (
    "the program replaced interpreter.llm.completions: its calls go past the kernel; leave it "
    "as it is, or `detach` the interpreter"
)

Chunk = dict[str, Any]


def attach(
    interpreter: Any,
    *,
    agent: str | Agent | None = None,
    model: str | None = None,
    conversation: str | None = None,
    group: str | None = None,
    priority: int | None = None,
    weight: float = 1.0,
    budget: Budget | None = None,
    timeout_s: float | None = None,
    figures: str | Path | None = None,
    kernel: Kernel | None = None,
    mode: Mode = "substitute",
) -> Attachment:
    """Attach an interpreter to the kernel; attach it again if it is attached already.

    Args:
        interpreter: an `OpenInterpreter`.
        agent: the agent that makes the calls and owns files and memory, as a name or an agent of
            the kernel. None: a new agent, which exits with the interpreter.
        model: a model that a core serves; None: the kernel's default, until the program sets
            `interpreter.llm.model` to another.
        conversation: the name of its history. If the agent has one of that name, the
            interpreter continues it. None: a new one (`Attachment.conversation`).
        group: the group of an agent that is spawned.
        priority: the priority of an agent that is spawned; smaller is more urgent.
        weight: the share of an agent that is spawned in its group's service.
        budget: what an agent that is spawned may spend.
        timeout_s: seconds for each block of code, including the wait for an approval.
        figures: a directory for the pictures that its code makes. None: one for each conversation
            in `open_interpreter_figures` in the working directory.
        kernel: None for the default kernel of this process, from the first call on. In mode
            "passthrough" with a given agent: the kernel of that agent.
        mode: "substitute": the kernel's cores answer. "passthrough": the interpreter's own provider
            answers, when the kernel schedules the call.

    Raises:
        InvalidRequest: the interpreter and the stored conversation both have messages.
    """
    detach(interpreter)
    settings = AgentSettings(group, priority, weight, budget)
    owner = InterpreterAgent(interpreter, agent, settings, kernel)
    attachment = Attachment(interpreter, owner, conversation, timeout_s, figures)
    if conversation is not None:
        attachment.resume()
    attachment.apply(mode, model=model, is_substitute=False)
    return attachment


def detach(interpreter: Any) -> None:
    """Restore an interpreter. Its messages and its history are kept."""
    if (attachment := attachment_of(interpreter)) is not None:
        attachment.undo()


def attachment_of(interpreter: Any) -> Attachment | None:
    """Return the attachment of an interpreter; None if it has none."""
    attachment: Attachment | None = vars(interpreter).get(_ATTRIBUTE)
    return attachment


class Attachment:
    """The attachment of an interpreter to the kernel, also `interpreter.aios`."""

    def __init__(
        self,
        interpreter: Any,
        agent: InterpreterAgent,
        conversation: str | None = None,
        timeout_s: float | None = None,
        figures: str | Path | None = None,
    ) -> None:
        self._interpreter = interpreter
        self._agent = agent
        self._history = History(conversation or uuid4().hex)
        self._figures = Figures(_directory(figures, self.conversation))
        self._terminal = SandboxTerminal(agent, self.conversation, self._figures, timeout_s)
        self._completions: Completions | PassthroughCompletions | None = None
        self._patches = Patches()
        self._theirs: Any = None  # Open Interpreter's module of its `Llm`

    def __repr__(self) -> str:
        return f"<Attachment of {self.conversation!r}>"

    @property
    def conversation(self) -> str:
        """The name of the interpreter's history."""
        return self._history.conversation

    @property
    def figures(self) -> Path:
        """The directory of the pictures that the code makes, one file each."""
        return self._figures.directory

    def stop(self) -> None:
        """Cancel the LLM call and interrupt the code that are running, from any thread."""
        if self._completions is not None:
            self._completions.stop()
        self._terminal.stop()

    # --- attaching and detaching ------------------------------------------------------------------

    def resume(self) -> None:
        """Continue the stored conversation, if there is one.

        Raises:
            InvalidRequest: the interpreter has other messages.
        """
        with self._agent.use() as agent:
            stored = self._history.read(agent)
        if stored and self._interpreter.messages:
            raise InvalidRequest(
                f"conversation: {self.conversation!r} has {len(stored)} messages, and the "
                "interpreter has others; reset it, or name another conversation"
            )
        if stored:
            self._interpreter.messages = stored
            self._interpreter.last_messages_count = len(stored)

    def apply(self, mode: Mode, *, model: str | None, is_substitute: bool) -> None:
        """Replace the interpreter's attributes. Makes no syscall.

        Args:
            mode: the mode of its LLM calls.
            model: the model to request; None for the kernel's default.
            is_substitute: whether to request the model that the program names.
        """
        interpreter, replace = self._interpreter, self._patches.replace
        quiet = {"disable_telemetry": True, "offline": True, "contribute_conversation": False}
        asked = {"auto_run": True}  # the kernel asks for approvals, so the terminal must not
        ours = {"conversation_history": False, "_respond_and_store": self._turns(interpreter)}
        for name, value in {**quiet, **asked, **ours, _ATTRIBUTE: self}.items():
            replace(interpreter, name, value)
        replace(interpreter.computer, "offline", True)
        replace(interpreter.computer, "terminal", self._terminal)
        llm = interpreter.llm
        # Imported here, when the program has imported it: this import uses the network.
        self._theirs = import_module("interpreter.core.llm.llm")
        if mode == "passthrough":
            self._completions = PassthroughCompletions(self._agent, llm.completions)
        else:
            chosen = self._chosen(llm.model, model, is_substitute)
            self._completions = Completions(self._agent, chosen, lambda: llm.context_window)
            replace(llm, "run", self._run)
        replace(llm, "completions", self._completions)

    def undo(self) -> None:
        """Restore all attributes, and delete the variables of the code."""
        self._terminal.terminate()
        self._patches.undo()

    def _chosen(
        self, former: str, model: str | None, is_substitute: bool
    ) -> Callable[[str], str | None]:
        def chosen(named: str) -> str | None:
            if named == former and not is_substitute:
                return model
            return self._agent.resolve_model(named)

        return chosen

    # --- replaced methods ---------------------------------------------------------------------

    def _run(self, messages: list[Chunk]) -> Iterator[Chunk]:
        """Answer messages in place of `Llm.run`, without a tokenizer's download."""
        llm, theirs = self._interpreter.llm, self._theirs
        if llm.supports_vision is False and any(map(_is_image, messages)):
            raise InvalidRequest(
                "llm.supports_vision: got False, with an image among the messages; allowed: None, "
                "for the core to decide, or a message of the format 'description'"
            )
        if llm.completions is not self._completions:
            give_notice(log, "open-interpreter: completions", _OWN_COMPLETIONS)
        calls_functions = llm.supports_functions is not False
        params: dict[str, Any] = {
            "model": llm.model,
            "messages": theirs.convert_to_openai_messages(
                _with_fewer_images(messages, num_first=0 if self._interpreter.os else 1),
                function_calling=calls_functions,
                vision=True,
                shrink_images=self._interpreter.shrink_images,
                interpreter=self._interpreter,
            ),
            "stream": True,
        }
        for name in ("max_tokens", "temperature"):
            if value := getattr(llm, name):
                params[name] = value
        read = theirs.run_tool_calling_llm if calls_functions else theirs.run_text_llm
        yield from read(llm, params)

    def _turns(self, interpreter: Any) -> Callable[[], Iterator[Chunk]]:
        """Return the method in place of `_respond_and_store`, which every way to chat uses."""
        theirs: Callable[[], Iterator[Chunk]] = interpreter._respond_and_store  # noqa: SLF001 - the seam

        def turn() -> Iterator[Chunk]:
            self._agent.failure = None
            try:
                yield from self._endable(theirs())
            except BaseException as exc:
                self._end(exc)
                raise
            self._end(None)

        return turn

    def _endable(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks of a turn; closing it while code runs ends the turn as Ctrl-C does.

        Open Interpreter would treat the closing of its own generator as output of the code.
        """
        for chunk in chunks:
            try:
                yield chunk
            except GeneratorExit:
                if self._terminal.end_turn():
                    for _ in chunks:
                        pass
                raise

    def _end(self, error: BaseException | None) -> None:
        """End a turn: release its resources, store its messages, and raise its error."""
        self.stop()
        failure = self._agent.failure
        try:
            with self._agent.use() as agent:
                self._history.keep(agent, self._interpreter.messages)
        except KernelError as exc:
            if failure is None and error is None:
                raise
            log.warning("the history of %r was not kept: %s", self.conversation, exc)
        if failure is not None and error is not failure and not _is_closing(error):
            raise failure from None


def _directory(given: str | Path | None, conversation: str) -> Path:
    """Return the directory for pictures. Escapes names that a folder cannot have."""
    if given is not None:
        return Path(given)
    name = re.sub(r"[^\w-]+", "_", conversation)[:80]
    return Path("open_interpreter_figures", name)


def _is_image(message: Chunk) -> bool:
    return message["type"] == "image" and message.get("format") != "description"


def _with_fewer_images(messages: list[Chunk], *, num_first: int) -> list[Chunk]:
    """Drop images as Open Interpreter does: all but the first ones and the last two."""
    places = [place for place, one in enumerate(messages) if one["type"] == "image"]
    left_out = set(places[num_first:-2])
    return [one for place, one in enumerate(messages) if place not in left_out]


def _is_closing(error: BaseException | None) -> bool:
    """Return whether the caller ends the turn: by closing the generator, or by Ctrl-C."""
    return error is not None and not isinstance(error, Exception)
