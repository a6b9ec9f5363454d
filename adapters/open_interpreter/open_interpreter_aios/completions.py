"""Answer Open Interpreter's LLM calls from the kernel.

`interpreter.llm.completions` is a function that takes a chat completion request and
yields its chunks, in the shape that LiteLLM gives them: dictionaries with tool
calls that have attributes. `Completions` is such a function; every call of it is a
syscall of the interpreter's agent, and closing the generator (Ctrl-C, `stop`)
cancels the syscall. `PassthroughCompletions` schedules the calls that LiteLLM makes at its
provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

from aios_adapters import (
    ChunkWriter,
    passthrough_call,
    read_messages,
    read_request,
    to_kernel_messages,
)
from aios_core import Agent, Delta, Message, Stream, Usage
from open_interpreter_aios.interpreter_agent import InterpreterAgent

# Options for LiteLLM about the connection to a provider, which cores do not use.
_OF_THE_WIRE: Final = ("api_key", "api_base", "api_version", "conversation_id", "model")
_ANSWER_SHARE: Final = 0.2  # of the context window, kept free where no `max_tokens` is set


class Completions:
    """A function that answers completion requests as syscalls of an interpreter's agent.

    Args:
        agent: the interpreter's agent.
        model: returns the model to request, given the one that the program names.
        window: returns the context window that the program sets, in tokens; None: the core's.
    """

    def __init__(
        self,
        agent: InterpreterAgent,
        model: Callable[[str], str | None],
        window: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._agent = agent
        self._model = model
        self._window = window
        self._stream: Stream | None = None  # of the call in flight
        self._is_stopped = False  # `stop` came during the call; set before `_stream` is read

    def __call__(self, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield the chunks of one answer.

        Raises:
            KernelError: the kernel refused or ended the call.
        """
        self._is_stopped = False
        said = {key: value for key, value in params.items() if key not in _OF_THE_WIRE}
        with self._agent.keep_error(), self._agent.use() as agent:
            request = read_request(said)
            request["model"] = self._model(str(params.get("model")))
            request["parallel_tool_calls"] = False  # Open Interpreter reads the first call only
            request["messages"] = _fitting(agent, request, self._window())
            writer = ChunkWriter(request["model"] or "aios")
            with agent.llm.stream(**request) as deltas, self._stoppable(deltas):
                for delta in deltas:
                    for part in _parts(delta, is_text="tools" not in params):
                        yield _readable(writer.delta(part))
                yield writer.end(deltas.completion)
                yield writer.usage(deltas.completion)

    def stop(self) -> None:
        """Cancel the call in flight, from any thread; its reader gets `SyscallCancelled`."""
        self._is_stopped = True
        self._withdraw()

    def _withdraw(self) -> None:
        stream = self._stream
        if stream is not None and stream.call is not None:
            stream.call.withdraw()

    @contextmanager
    def _stoppable(self, stream: Stream) -> Iterator[None]:
        self._stream = stream
        if self._is_stopped:  # between the call and its stream
            self._withdraw()
        try:
            yield
        finally:
            self._stream = None


class PassthroughCompletions:
    """A function that calls a provider, in a slot of its model."""

    def __init__(self, agent: InterpreterAgent, theirs: Callable[..., Iterator[Any]]) -> None:
        self._agent = agent
        self._theirs = theirs

    def __call__(self, **params: Any) -> Iterator[Any]:
        """Yield the provider's chunks, when the kernel starts the call."""
        model = str(params.get("model"))
        params.setdefault("stream_options", {"include_usage": True})
        request: dict[str, Any] = {
            "messages": to_kernel_messages(params["messages"], read_messages),
            "max_tokens": params.get("max_tokens"),
        }
        self._agent.register_model(model)
        with (
            self._agent.keep_error(),
            self._agent.use() as agent,
            passthrough_call(agent, model, **request) as slot,
        ):
            text: list[str] = []
            for chunk in self._theirs(**params):
                text += _texts(chunk)
                if usage := _get(chunk, "usage"):
                    counts = (_get(usage, key) for key in ("prompt_tokens", "completion_tokens"))
                    slot.record_usage(Usage(*(int(count or 0) for count in counts)), "".join(text))
                yield chunk

    def stop(self) -> None:
        """Do nothing: LiteLLM's calls block. The generator is closed at the next chunk."""


def _fitting(agent: Agent, request: Mapping[str, Any], window: int | None = None) -> list[Message]:
    """Drop the oldest turns if all messages leave no room for an answer in the window.

    The system message and the last turn stay; a turn starts with a user's message.
    """
    messages: Sequence[Message] = request["messages"]
    options = {key: value for key, value in request.items() if key != "messages"}
    head = [message for message in messages[:1] if message.role == "system"]
    rest = list(messages[len(head) :])
    while True:
        size = agent.llm.measure([*head, *rest], **options)
        allowed = min(window or size.context_window, size.context_window)
        num_left = size.num_left - (size.context_window - allowed)
        wanted = request.get("max_tokens") or int(allowed * _ANSWER_SHARE)
        begins = [place for place, one in enumerate(rest) if place and one.role == "user"]
        if num_left >= wanted or not begins:
            return [*head, *rest]
        rest = rest[begins[0] :]


def _parts(delta: Delta, *, is_text: bool) -> Iterator[Delta]:
    """Split a delta into the pieces that Open Interpreter can parse.

    When it reads code from text, it looks for fences at the start of pieces, and for the
    language's name in them. So text is passed in single characters.
    """
    if is_text:
        yield from map(Delta, delta.text)
    elif delta:
        yield delta


def _texts(chunk: Any) -> list[str]:
    """Return the texts in a chunk of LiteLLM's."""
    deltas = (_get(choice, "delta") for choice in _get(chunk, "choices") or ())
    return [str(text) for delta in deltas if delta and (text := _get(delta, "content"))]


def _get(owner: Any, name: str) -> Any:
    """Return a field of a dictionary or an object: LiteLLM's chunks are either."""
    return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)


def _readable(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk with tool calls that have attributes."""
    delta = chunk["choices"][0]["delta"]
    if "tool_calls" in delta:
        delta["tool_calls"] = [
            SimpleNamespace(
                index=call["index"],
                id=call.get("id"),
                type="function",
                function=SimpleNamespace(
                    name=call["function"].get("name"), arguments=call["function"]["arguments"]
                ),
            )
            for call in delta["tool_calls"]
        ]
    return chunk
