"""`AIOSChatCompletionClient`: a model client of AutoGen that the kernel answers.

Every call is a syscall of the agent that makes it (found by `autogen_aios.callers`):
scheduled, accounted, checked and cancellable. A cancellation token, a cancelled task and a
stream that is closed early each free the core's slot at once. A client is bound to no event
loop and no run: agents, teams, threads and loops may share one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Self

from autogen_core import EVENT_LOGGER_NAME, CancellationToken, Component
from autogen_core.logging import LLMCallEvent, LLMStreamEndEvent, LLMStreamStartEvent
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelFamily,
    ModelInfo,
    RequestUsage,
    validate_model_info,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel, ConfigDict

from aios_adapters import (
    AgentRef,
    AgentSettings,
    Caller,
    read_options,
    write_completion,
)
from aios_core import (
    Agent,
    Budget,
    Completion,
    Kernel,
    Message,
    PromptSize,
    Usage,
    build_llm_request,
    default_kernel,
)
from aios_core.errors import SyscallCancelled
from autogen_aios import translation
from autogen_aios.agent_options import parse_agent_options
from autogen_aios.callers import directory, find_caller

_events = logging.getLogger(EVENT_LOGGER_NAME)

ToolChoice = Tool | Literal["auto", "required", "none"]

MODEL_INFO = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=True,
    structured_output=True,
    family=ModelFamily.UNKNOWN,
    multiple_system_messages=True,
)


class AIOSChatCompletionClientConfig(BaseModel):
    """The configuration of a client: its arguments, all of them optional."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    timeout: float | None = None
    parallel_tool_calls: bool | None = None
    include_name_in_message: bool = True
    model_info: ModelInfo | None = None
    agent: str | None = None
    group: str | None = None
    priority: int | None = None
    weight: float = 1.0
    budget: dict[str, float | None] | None = None


class AIOSChatCompletionClient(ChatCompletionClient, Component[AIOSChatCompletionClientConfig]):
    """A model client that runs on the kernel.

    >>> client = AIOSChatCompletionClient()  # the default kernel starts at the first call

    Any call may set more in `extra_create_args`: the options below under OpenAI's names, and
    `{"aios": {"agent": ..., "group": ..., "priority": ..., "weight": ..., "budget": ...}}`.
    Options that are unknown to AutoGen and the kernel are passed to the core's backend unchanged.
    Errors are those of `aios_core.errors`.

    Args:
        model: a model that a core serves; None for the kernel's default.
        temperature: 0 is greedy; None leaves it to the core.
        top_p: sample among the likeliest tokens that together have this probability.
        top_k: sample among that many tokens.
        max_tokens: the limit of one answer; None for as many as core and budget allow.
        seed: makes sampling repeatable.
        stop: texts before which an answer ends.
        timeout: seconds until a call fails with `DeadlineExceeded`.
        parallel_tool_calls: whether one answer may hold several calls; None for yes.
        include_name_in_message: whether a user's message has the name of its source.
        model_info: the capabilities that AutoGen assumes of the model.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the caller.
        group: the agent's privilege group; None for the kernel's default.
        priority: the agent's priority; smaller is more urgent.
        weight: the agent's share of its group's service.
        budget: what the agent may spend, as a `Budget` or its fields.
        kernel: None for the default kernel of this process.
    """

    component_type: ClassVar[Literal["model"]] = "model"
    component_config_schema = AIOSChatCompletionClientConfig
    component_provider_override = "autogen_aios.AIOSChatCompletionClient"

    def __init__(
        self,
        *,
        model: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        timeout: float | None = None,
        parallel_tool_calls: bool | None = None,
        include_name_in_message: bool = True,
        model_info: ModelInfo | None = None,
        agent: str | Agent | None = None,
        group: str | None = None,
        priority: int | None = None,
        weight: float = 1.0,
        budget: Budget | Mapping[str, Any] | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self._options = {
            "model": model,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_tokens": max_tokens,
            "seed": seed,
            "stop": stop,
            "timeout": timeout,
            "parallel_tool_calls": parallel_tool_calls,
        }
        self._with_names = include_name_in_message
        self._given_info = model_info
        self._model_info = model_info or MODEL_INFO
        validate_model_info(self._model_info)
        self._agent = agent
        given = {"group": group, "priority": priority, "weight": weight, "budget": budget}
        self._settings = AgentSettings().updated(given)
        self._kernel = kernel
        self._usage = Usage()
        self._lock = threading.Lock()  # guards _usage

    # --- calls --------------------------------------------------------------------------------

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        """Return the whole answer.

        Raises:
            asyncio.CancelledError: the token cancelled the call.
        """
        call = self._call(messages, tools, tool_choice, json_output, extra_create_args or {})
        with ExitStack() as stack:
            agent = await self.agent_ref(extra_create_args or {}).hold(stack)
            answer = agent.llm.agenerate(**call)
            if cancellation_token is None:
                completion = await answer
            else:
                completion = await cancellation_token.link_future(asyncio.ensure_future(answer))
        self._account(completion)
        if _events.isEnabledFor(logging.INFO):
            _events.info(
                LLMCallEvent(
                    messages=[message.to_dict() for message in call["messages"]],
                    response=write_completion(completion),
                    prompt_tokens=completion.usage.input_tokens,
                    completion_tokens=completion.usage.output_tokens,
                    tools=[tool.to_dict() for tool in call["tools"]],
                )
            )
        return translation.to_result(completion)

    def create_stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Yield the answer's text as it arrives, then the whole answer with tool calls and usage.

        The call belongs to the agent that requests the stream, even if another task reads it.
        """
        return self.stream_of(
            self.agent_ref(extra_create_args or {}),
            messages,
            tools=tools,
            tool_choice=tool_choice,
            json_output=json_output,
            extra_create_args=extra_create_args,
            cancellation_token=cancellation_token,
        )

    async def stream_of(
        self,
        ref: AgentRef,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: ToolChoice = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Stream as `create_stream` does, for an agent that was found with `agent_ref`."""
        call = self._call(messages, tools, tool_choice, json_output, extra_create_args or {})
        token = cancellation_token
        with ExitStack() as stack:  # a half-read stream must have nothing to await
            agent = await ref.hold(stack)
            deltas = stack.enter_context(closing(agent.llm.astream(**call)))
            if token is not None and deltas.call is not None:
                token.add_callback(deltas.call.withdraw)
            if _events.isEnabledFor(logging.INFO):
                messages_sent = [message.to_dict() for message in call["messages"]]
                _events.info(LLMStreamStartEvent(messages=messages_sent))
            try:
                marks = translation.ThoughtMarks()
                async for delta in deltas:
                    for text in marks.texts(delta):
                        yield text
            except SyscallCancelled as exc:
                if token is None or not token.is_cancelled():
                    raise
                raise asyncio.CancelledError from exc
            completion = deltas.completion
        self._account(completion)
        result = translation.to_result(completion)
        if _events.isEnabledFor(logging.INFO):
            _events.info(
                LLMStreamEndEvent(
                    response=result.model_dump(),
                    prompt_tokens=result.usage.prompt_tokens,
                    completion_tokens=result.usage.completion_tokens,
                )
            )
        yield result

    async def close(self) -> None:
        """Do nothing: a client holds no resources, and others may use the kernel."""

    # --- counting -----------------------------------------------------------------------------

    def actual_usage(self) -> RequestUsage:
        """Return the usage of all calls of this client."""
        return translation.to_usage(self._usage)

    def total_usage(self) -> RequestUsage:
        """Return the usage of all calls: this client has no cache to count apart."""
        return translation.to_usage(self._usage)

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Return the number of prompt tokens that the core counts, or an upper bound."""
        return self._measure(messages, tools).num_tokens

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Return the number of tokens that the context window has left for an answer."""
        return self._measure(messages, tools).num_left

    def _measure(
        self, messages: Sequence[LLMMessage], tools: Sequence[Tool | ToolSchema]
    ) -> PromptSize:
        known = translation.to_messages(messages, with_names=self._with_names)
        asked = build_llm_request(
            known or [Message("user", " .")],  # AutoGen also counts an empty context
            model=self._options["model"],  # type: ignore[arg-type] # one of several kinds
            tools=translation.to_tools(tools),
        )
        return (self._kernel or default_kernel()).measure_prompt(asked)

    def _account(self, completion: Completion) -> None:
        with self._lock:
            self._usage += completion.usage

    # --- the model ----------------------------------------------------------------------------

    @property
    def model_info(self) -> ModelInfo:
        """The capabilities of the model."""
        return self._model_info

    @property
    def capabilities(self) -> ModelInfo:
        """The capabilities of the model, under AutoGen's old name for `model_info`."""
        warnings.warn("capabilities is deprecated, use model_info", DeprecationWarning, 2)
        return self._model_info

    # --- requests -----------------------------------------------------------------------------

    def _call(
        self,
        messages: Sequence[LLMMessage],
        tools: Sequence[Tool | ToolSchema],
        tool_choice: ToolChoice,
        json_output: bool | type[BaseModel] | None,
        extra: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the arguments of an LLM syscall: the client's, overridden by the call's."""
        options, rest = read_options({**self._options, **extra})
        rest.pop("aios", None)
        raw_format = rest.pop("response_format", None)
        offered = translation.to_tools([*tools, *rest.pop("tools", ())])
        choice = rest.pop("tool_choice", tool_choice)
        names = [tool.name for tool in offered]
        return {
            **options,
            "messages": translation.to_messages(messages, with_names=self._with_names),
            "tools": offered,
            "tool_choice": translation.to_tool_choice(choice, names),
            "response_format": translation.to_response_format(json_output, raw_format),
            "extra": rest,
        }

    # --- the agent that makes a call ----------------------------------------------------------

    def agent_ref(self, extra: Mapping[str, Any]) -> AgentRef:
        """Find the agent of a call that is made on this stack.

        Args:
            extra: the call's `extra_create_args`.
        """
        named, options = parse_agent_options(extra.get("aios"))
        agent = named or self._agent
        return AgentRef(
            directory,
            _find,
            agent if isinstance(agent, Agent) or agent is None else str(agent),
            self._settings.updated(options),
            self._kernel,
        ).located()

    # --- AutoGen's component interface --------------------------------------------------------

    def _to_config(self) -> AIOSChatCompletionClientConfig:
        budget = self._settings.budget
        return AIOSChatCompletionClientConfig(
            **self._options,  # type: ignore[arg-type] # each has a type of its own
            include_name_in_message=self._with_names,
            model_info=self._given_info,
            agent=self._agent.name if isinstance(self._agent, Agent) else self._agent,
            group=self._settings.group,
            priority=self._settings.priority,
            weight=self._settings.weight,
            budget=asdict(budget) if budget else None,
        )

    @classmethod
    def _from_config(cls, config: AIOSChatCompletionClientConfig) -> Self:
        return cls(**config.model_dump(exclude_none=True))


def _find(name: str | None, settings: AgentSettings) -> tuple[Caller, AgentSettings]:
    return Caller.named(name, settings.group) if name else find_caller(), settings
