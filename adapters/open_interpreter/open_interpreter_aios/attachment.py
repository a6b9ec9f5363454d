"""`attach`: one interpreter, one agent of the kernel.

    its model      `interpreter.llm.run` and `.completions`: LLM syscalls
    its code       `interpreter.computer.terminal`: tool syscalls, in the sandbox
    its history    `interpreter.messages` after each turn: a thread of the agent's memory
    the network    telemetry, contributing and look-ups are off

Attributes of the instance are replaced, and `detach` gives all of them back.
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
    """Put an interpreter on the kernel. One that is attached already is attached anew.

    Args:
        interpreter: an `OpenInterpreter`.
        agent: whose calls, files and memory: a name, or an agent of the kernel. None: an agent
            of its own, which ends with the interpreter.
        model: one that a core serves; None: the kernel's default, until the program sets
            `interpreter.llm.model` to another.
        conversation: the name of its history. If the agent has one of that name, the
            interpreter goes on with it. None: a new one, see `Attachment.conversation`.
        group: of an agent that is spawned, as are `priority`, `weight` and `budget`.
        priority: see `Kernel.spawn`.
        weight: see `Kernel.spawn`.
        budget: see `Kernel.spawn`.
        timeout_s: for each block of code, the wait for an approval included.
        figures: a directory for the pictures that its code makes. None: one for each conversation
            in `open_interpreter_figures`, where the program runs.
        kernel: None for the embedded kernel of this process, from the first call on. To admit
            calls of an agent that is given, its kernel.
        mode: "substitute": the kernel's cores answer. "passthrough": the interpreter's own provider
            answers, when the kernel lets it.

    Raises:
        InvalidRequest: the interpreter has messages, and so has the conversation.
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
    """Give an interpreter back what it had. Its messages stay, and so does its history."""
    if (attachment := attachment_of(interpreter)) is not None:
        attachment.undo()


def attachment_of(interpreter: Any) -> Attachment | None:
    """How an interpreter is attached; None: it is not."""
    attachment: Attachment | None = vars(interpreter).get(_ATTRIBUTE)
    return attachment


class Attachment:
    """An interpreter on the kernel; also `interpreter.aios`. Made by `attach`."""

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
        """The name of its history."""
        return self._history.conversation

    @property
    def figures(self) -> Path:
        """Where the pictures of its code go, one file each."""
        return self._figures.directory

    def stop(self) -> None:
        """Cancel the model's call and interrupt the code that are under way, from any thread."""
        if self._completions is not None:
            self._completions.stop()
        self._terminal.stop()

    # --- putting on and taking off ----------------------------------------------------------------

    def resume(self) -> None:
        """Go on with the conversation, if there is one. Raises `InvalidRequest`, see `attach`."""
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
        """Replace what is replaced. `is_substitute`: the program's own model's name is asked for.

        Nothing is asked of the kernel for it.
        """
        interpreter, replace = self._interpreter, self._patches.replace
        quiet = {"disable_telemetry": True, "offline": True, "contribute_conversation": False}
        asked = {"auto_run": True}  # the kernel asks; the terminal need not as well
        ours = {"conversation_history": False, "_respond_and_store": self._turns(interpreter)}
        for name, value in {**quiet, **asked, **ours, _ATTRIBUTE: self}.items():
            replace(interpreter, name, value)
        replace(interpreter.computer, "offline", True)
        replace(interpreter.computer, "terminal", self._terminal)
        llm = interpreter.llm
        # The program has imported it; we do not before, since that import looks into the network.
        self._theirs = import_module("interpreter.core.llm.llm")
        if mode == "passthrough":
            self._completions = PassthroughCompletions(self._agent, llm.completions)
        else:
            chosen = self._chosen(llm.model, model, is_substitute)
            self._completions = Completions(self._agent, chosen, lambda: llm.context_window)
            replace(llm, "run", self._run)
        replace(llm, "completions", self._completions)

    def undo(self) -> None:
        """Give everything back, and forget the variables of the code."""
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

    # --- what runs ----------------------------------------------------------------------------

    def _run(self, messages: list[Chunk]) -> Iterator[Chunk]:
        """In the place of `Llm.run`: no tokenizer to fetch, no provider's tables to look up."""
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
        """In the place of `_respond_and_store`, by which every way to chat goes."""
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
        """The same. Closed while code runs, the turn comes to the end that Ctrl-C makes.

        Open Interpreter takes its own generator's being closed there for the code's output.
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
        """Free what the turn holds, keep its messages, and raise why it failed."""
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
    """Where pictures go. A conversation may have any name, and a folder may not."""
    if given is not None:
        return Path(given)
    name = re.sub(r"[^\w-]+", "_", conversation)[:80]
    return Path("open_interpreter_figures", name)


def _is_image(message: Chunk) -> bool:
    return message["type"] == "image" and message.get("format") != "description"


def _with_fewer_images(messages: list[Chunk], *, num_first: int) -> list[Chunk]:
    """Leave out the images that Open Interpreter leaves out: all but the first ones and two."""
    places = [place for place, one in enumerate(messages) if one["type"] == "image"]
    left_out = set(places[num_first:-2])
    return [one for place, one in enumerate(messages) if place not in left_out]


def _is_closing(error: BaseException | None) -> bool:
    """Return whether somebody else ends the turn: a generator that is closed, Ctrl-C."""
    return error is not None and not isinstance(error, Exception)
