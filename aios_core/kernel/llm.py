"""The LLM syscalls of an agent: what `agent.llm` offers, and how its requests are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from aios_core.core import PromptSize
from aios_core.errors import InvalidRequest
from aios_core.kernel.port import AgentPort
from aios_core.kernel.streams import AsyncStream, Stream
from aios_core.messages import (
    GENERAL_CHOICES,
    Completion,
    Message,
    ResponseFormat,
    Sampling,
    ToolChoice,
    parse_messages,
    parse_tools,
    require_integer,
    require_items,
    require_number,
)
from aios_core.messages.sampling import UNSET
from aios_core.options import (
    CallOptions,
    Messages,
    RequestOptions,
    SamplingOptions,
    SubmitOptions,
    Tools,
)
from aios_core.redaction import shown_repr
from aios_core.retrieval.embedding import Embed, Vector
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.arguments import is_a, reads_arguments


@dataclass(frozen=True, slots=True)
class LLM:
    """The LLM syscalls of one agent. The arguments of all methods are those of `build_llm_request`.

    All raise, in addition to errors of the core: `InvalidRequest` (malformed, unknown
    model, prompt too long), `Overloaded`, `BudgetExceeded`, `RunawayStopped`,
    `DeadlineExceeded`, `SyscallCancelled`, `KernelClosed`; the blocking ones
    `WouldBlock` when called on the kernel's own loop.
    """

    _port: AgentPort

    def generate(self, messages: Messages, **arguments: Unpack[CallOptions]) -> Completion:
        """Continue the conversation, and wait for the whole answer.

        Args:
            messages: a text, or messages, also in OpenAI's format.
            **arguments: of the request: `model`, `tools`, `tool_choice`, `response_format`,
                `stop`, `extra`, the fields of `Sampling` (`max_tokens`, `temperature` ...), which
                `build_llm_request` documents; and of the call: `timeout_s`, after which it fails,
                and `priority`, in place of the agent's.
        """
        request, options = _split(messages, arguments)
        return self._port.generate(request, options)

    async def agenerate(self, messages: Messages, **arguments: Unpack[CallOptions]) -> Completion:
        """Continue the conversation without blocking the event loop (async form of `generate`).

        Cancelling the await cancels the call.
        """
        request, options = _split(messages, arguments)
        return await self._port.agenerate(request, options)

    def embed(self, texts: Sequence[str], *, timeout_s: float | None = None) -> tuple[Vector, ...]:
        """Embed texts. Returns one vector of length 1 for each, to be compared by cosine.

        Args:
            texts: the texts to embed.
            timeout_s: seconds after which the request fails; None: no limit.

        Raises:
            RateLimited: the embedding endpoint wants a pause.
            BackendError: the embedder failed.
        """
        return self._port.call(Embed(texts), timeout_s=timeout_s)

    async def aembed(
        self, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> tuple[Vector, ...]:
        """Embed texts without blocking the event loop (async form of `embed`).

        Cancelling the await cancels the request.
        """
        return await self._port.acall(Embed(texts), timeout_s=timeout_s)

    def stream(self, messages: Messages, **arguments: Unpack[CallOptions]) -> Stream:
        """Continue the conversation. Returns a stream of deltas, for a plain thread.

        The arguments are those of `generate`.
        """
        request, options = _split(messages, arguments)
        return self._port.stream(request, options)

    def astream(self, messages: Messages, **arguments: Unpack[CallOptions]) -> AsyncStream:
        """Continue the conversation. Returns a stream of deltas, for the running event loop.

        The arguments are those of `generate`.
        """
        request, options = _split(messages, arguments)
        return self._port.astream(request, options)

    def measure(self, messages: Messages, **arguments: Unpack[RequestOptions]) -> PromptSize:
        """Return the tokens of a prompt and the model's context window, without calling the model.

        The arguments are those of `build_llm_request`.

        Raises:
            InvalidRequest: the request is malformed.
            KernelClosed: the kernel does not run.
            WouldBlock: called on the kernel's own loop.
        """
        return self._port.measure(build_llm_request(messages, **arguments))

    async def ameasure(self, messages: Messages, **arguments: Unpack[RequestOptions]) -> PromptSize:
        """Measure a prompt without blocking the event loop (async form of `measure`)."""
        return await self._port.ameasure(build_llm_request(messages, **arguments))


def build_llm_request(
    messages: Messages,
    *,
    model: str | None = None,
    tools: Tools = (),
    tool_choice: ToolChoice | None = None,
    parallel_tool_calls: bool | None = None,
    response_format: ResponseFormat | Mapping[str, Any] | None = None,
    stop: str | Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    **sampling: Unpack[SamplingOptions],
) -> LLMGenerate:
    """Build a checked LLM request. Settings that are None are not sent to the backend.

    Args:
        messages: a text, or messages, also in OpenAI's format.
        model: one that a core serves; None for the kernel's default.
        tools: offered to the model; OpenAI's format is accepted.
        tool_choice: "auto", "none", "required", the name of the tool that must be called, or
            another choice in OpenAI's format.
        parallel_tool_calls: whether one answer may hold several calls.
        response_format: a `ResponseFormat`, OpenAI's `response_format`, or a JSON schema that
            the answer must satisfy.
        stop: texts before which the answer ends.
        extra: passed to the core's backend unchanged. A key that has an argument of its own
            is refused.
        **sampling: the fields of `Sampling`: `max_tokens` of the answer, `temperature` (0 is
            greedy), `top_p`, `top_k`, `seed`, `n` answers to one prompt, and so on.

    Raises:
        InvalidRequest: names what was wrong and what would be right.
    """
    # What is left out is not looked at: most calls leave out nearly everything.
    offered = () if type(tools) is tuple and not tools else parse_tools(tools)
    if tool_choice is not None:
        _require_type("tool_choice", tool_choice, str | Mapping, "a text or a mapping")
        _require_known_choice(tool_choice, [tool.name for tool in offered])
    if extra is not None:
        _require_type("extra", extra, Mapping, "a mapping")
    return LLMGenerate(
        messages=(
            (Message("user", messages),) if type(messages) is str else parse_messages(messages)
        ),
        model=model,
        tools=offered,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
        response_format=None if response_format is None else _read_format(response_format),
        sampling=_read_sampling(stop, sampling) if sampling or stop is not None else UNSET,
        extra=dict(extra or {}),
    )


@reads_arguments
def _require_known_choice(choice: ToolChoice, names: Sequence[str]) -> None:
    if isinstance(choice, str) and choice not in GENERAL_CHOICES and choice not in names:
        raise InvalidRequest(
            f"tool_choice: got {shown_repr(choice)}; allowed: 'auto', 'none', 'required' or one of "
            f"{names}"
        )
    if choice == "required" and not names:
        raise InvalidRequest(
            "tool_choice: got 'required', but no tool is offered; pass `tools`, or choose 'auto'"
        )


@reads_arguments
def _read_format(response_format: ResponseFormat | Mapping[str, Any]) -> ResponseFormat:
    """A response format in OpenAI's form, or a plain JSON schema."""
    if isinstance(response_format, ResponseFormat):
        return response_format
    if ResponseFormat.is_openai(response_format):
        return ResponseFormat.from_dict(response_format)
    return ResponseFormat(response_format)


def _read_sampling(stop: str | Sequence[str] | None, settings: Mapping[str, Any]) -> Sampling:
    known = Sampling.__dataclass_fields__
    if unknown := [name for name in settings if name not in known]:
        raise TypeError(
            f"unexpected argument {unknown[0]!r}; allowed: the fields of Sampling; to pass it to "
            "the backend unchanged, put it into `extra`"
        )
    given: Any = () if stop is None else stop
    stops = (given,) if is_a(given, str) else tuple(require_items("stop", given))
    return Sampling(stop=stops, **settings)


@reads_arguments
def _require_type(name: str, value: object, kind: Any, allowed: str) -> None:
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: {allowed}")


def _split(messages: Messages, options: CallOptions) -> tuple[LLMGenerate, SubmitOptions]:
    """Separate the request from what concerns its way through the kernel."""
    timeout_s, priority = options.pop("timeout_s", None), options.pop("priority", None)
    if timeout_s is not None:
        require_number("timeout_s", timeout_s, at_least=0.0)
    if priority is not None:
        require_integer("priority", priority)
    asked: RequestOptions = options
    return build_llm_request(messages, **asked), {"timeout_s": timeout_s, "priority": priority}
