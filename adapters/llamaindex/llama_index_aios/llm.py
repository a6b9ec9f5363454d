"""`AIOSLLM`: an LLM of LlamaIndex that the kernel answers.

All eight ways to call are native: the asynchronous ones use no thread and block
no loop, streams pass deltas on as they arrive, and cancelling the task or closing the
stream cancels the syscall. Instances hold no loop and no lock: they may be shared
among threads and event loops, copied and pickled (an unpickled one uses the default
kernel of its process).
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, aclosing, closing
from functools import cache
from typing import Any, Final, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import PydanticProgramMode

from aios_adapters import (
    AgentRef,
    AgentSettings,
    RunHold,
    read_options,
    read_response_format,
    read_tool_choice,
)
from aios_core import Agent, Budget, Kernel, Message, build_llm_request, default_kernel
from llama_index_aios import translation
from llama_index_aios.callers import agent_ref, claim

ChatSteps = Generator[ChatResponse, None, None]
AsyncChatSteps = AsyncGenerator[ChatResponse, None]
_STOP: Final = "."  # precedes a text that is counted, since a prompt may not be blank


class Metadata(LLMMetadata):
    """A model's metadata; the context window is computed when it is read."""

    _window: Callable[[], int] = PrivateAttr()

    def __init__(self, window: Callable[[], int], **said: Any) -> None:
        super().__init__(**said)
        self._window = window

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute; compute `context_window`."""
        return self._window() if name == "context_window" else super().__getattribute__(name)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Return the fields to show, with the computed window."""
        for name, value in super().__repr_args__():
            yield name, self.context_window if name == "context_window" else value


class AIOSLLM(FunctionCallingLLM):
    """An LLM that runs on the kernel.

    >>> llm = AIOSLLM()  # the default kernel starts at the first call
    >>> llm.complete("hello").text

    Errors are those of `aios_core.errors`. Call arguments that are unknown to the kernel
    are passed to the core's backend unchanged.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str | None = Field(default=None, description="One that a core serves.")
    temperature: float | None = Field(
        default=None, description="0 is greedy; None leaves it to the core."
    )
    max_tokens: int | None = Field(default=None, description="Of one answer.")
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    stop: list[str] | None = None
    timeout: float | None = Field(default=None, description="Seconds until an answer is given up.")
    context_window: int | None = Field(default=None, description="None: the core's.")

    agent: str | Agent | None = Field(default=None, description="The agent that makes the calls.")
    group: str | None = None
    priority: int | None = None
    weight: float = 1.0
    budget: Budget | None = None
    kernel: Kernel | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in LlamaIndex's serialized objects."""
        return "aios_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """The model's metadata for LlamaIndex.

        The window is the core's. Reading it starts the default kernel, if the model has no other:
        a query engine cuts its prompts by it before the first call. Reading the other fields
        starts nothing.
        """
        return Metadata(
            self._window,
            num_output=self.max_tokens or 256,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model or "aios",
        )

    def _window(self) -> int:
        if self.context_window:
            return self.context_window
        kernel = self.kernel or default_kernel()
        return kernel.pool.route(self.model)[0].capabilities.context_window

    def to_payload(self) -> dict[str, Any]:
        """Return the model's data for events; with the window only if that starts no kernel."""
        metadata = self.metadata
        payload = {
            "class_name": self.class_name(),
            **metadata.model_dump(exclude={"context_window"}),
        }
        if self.context_window or self.kernel:
            payload["context_window"] = metadata.context_window
        return payload

    @property
    def tokenizer(self) -> Callable[[str], list[int]]:
        """A tokenizer that counts as the core does: `Settings.tokenizer = llm.tokenizer`.

        LlamaIndex cuts prompts to fit a window by its own tokenizer's count, which may be too low
        for another model. The list has as many items as the text has tokens; the items are not
        token ids.
        """

        @cache
        def around() -> int:
            return self._count(_STOP)

        return lambda text: list(range(self._count(f"{_STOP} {text}") - around()))

    def _count(self, text: str) -> int:
        """Count the tokens of a prompt with this text and its frame."""
        kernel = self.kernel or default_kernel()
        said = build_llm_request([Message("user", text)], model=self.model)
        return kernel.measure_prompt(said).num_tokens

    # --- LlamaIndex's eight ways to call ------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return self.answer(messages, **kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation; cancelling the await cancels the call (async form of `chat`)."""
        return await self.aanswer(messages, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer step by step; each step has the whole answer so far."""
        return self.stream_steps(messages, **kwargs)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer step by step (async form of `stream_chat`)."""
        return self.astream_steps(messages, **kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, as a user's message."""
        del formatted
        return self.answer_prompt(prompt, **kwargs)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt, as one turn of a user (async form of `complete`)."""
        del formatted
        return await self.aanswer_prompt(prompt, **kwargs)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt step by step."""
        del formatted
        return self.stream_prompt_steps(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt step by step (async form of `stream_complete`)."""
        del formatted
        return self.astream_prompt_steps(prompt, **kwargs)

    # --- calls without LlamaIndex's events, for wrappers that have sent them already ----------

    def answer(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation without sending events."""
        with self._agent_ref().use() as agent:
            completion = agent.llm.generate(**self._request(messages, kwargs))
        return translation.to_chat_response(completion)

    async def aanswer(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation without sending events (async form of `answer`)."""
        with ExitStack() as stack:
            agent = await self._agent_ref().hold(stack)
            completion = await agent.llm.agenerate(**self._request(messages, kwargs))
        return translation.to_chat_response(completion)

    def stream_steps(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatSteps:
        """Answer step by step without sending events."""
        return self._steps(self._request(messages, kwargs), *claim(self._agent_ref()))

    def astream_steps(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncChatSteps:
        """Answer step by step without sending events (async form of `stream_steps`)."""
        return self._asteps(self._request(messages, kwargs), *claim(self._agent_ref()))

    def answer_prompt(self, prompt: str, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt without sending events."""
        return translation.to_completion_response(self.answer(_as_chat(prompt), **kwargs))

    async def aanswer_prompt(self, prompt: str, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt without sending events (async form of `answer_prompt`)."""
        return translation.to_completion_response(await self.aanswer(_as_chat(prompt), **kwargs))

    def stream_prompt_steps(self, prompt: str, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt step by step without sending events."""
        return map_steps(self.stream_steps(_as_chat(prompt), **kwargs))

    def astream_prompt_steps(self, prompt: str, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt step by step (async form of `stream_prompt_steps`)."""
        return amap_steps(self.astream_steps(_as_chat(prompt), **kwargs))

    def _steps(self, request: dict[str, Any], hold: RunHold, ref: AgentRef) -> ChatSteps:
        answer = translation.Accumulator()
        with hold, ref.use() as agent, agent.llm.stream(**request) as deltas:
            yield from map(answer.step, filter(None, deltas))
            yield answer.end(deltas.completion)

    async def _asteps(
        self, request: dict[str, Any], hold: RunHold, ref: AgentRef
    ) -> AsyncChatSteps:
        answer = translation.Accumulator()
        with ExitStack() as stack:  # a half-read stream must have nothing to await
            stack.enter_context(hold)
            agent = await ref.hold(stack)
            deltas = stack.enter_context(closing(agent.llm.astream(**request)))
            async for delta in deltas:
                if delta:
                    yield answer.step(delta)
            yield answer.end(deltas.completion)

    # --- tools -------------------------------------------------------------------------------

    def _prepare_chat_with_tools(  # noqa: PLR0917 - LlamaIndex's signature
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `chat` for a call with tools."""
        del verbose
        messages = list(chat_history or [])
        if user_msg is not None:
            if isinstance(user_msg, str):
                user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
            messages.append(user_msg)
        choice = tool_choice if tool_choice is not None else "required" if tool_required else None
        offered = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        said = {"messages": messages, "parallel_tool_calls": allow_parallel_tool_calls, **kwargs}
        if offered:
            said |= {"tools": offered, "tool_choice": choice}
        return said

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """Stream objects as LlamaIndex does, but require the tool, as without streaming."""
        program: Any = self._program(output_cls, prompt)
        steps: Generator[Any, None, None] = program.stream_call(
            llm_kwargs=llm_kwargs, **prompt_args
        )
        return steps

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """Stream objects, requiring the tool (async form of `_structured_stream_call`)."""
        program = self._program(output_cls, prompt)
        steps: AsyncGenerator[Any, None] = await program.astream_call(
            llm_kwargs=llm_kwargs, **prompt_args
        )
        return steps

    def _program(self, output_cls: type[BaseModel], prompt: PromptTemplate) -> Any:
        """Return LlamaIndex's program; its streams do not require tools by themselves."""
        mode = self.pydantic_program_mode
        calls_a_tool = mode in {PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION}
        said = {"tool_choice": "required"} if calls_a_tool else {}
        return get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=mode, **said)

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Drop all calls but the first if LlamaIndex allows only one."""
        del tools, kwargs
        if not allow_parallel_tool_calls:
            calls = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
            if len(calls) > 1:
                kept = [b for b in response.message.blocks if b not in calls[1:]]
                response.message.blocks = kept
        return response

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the calls of an answer.

        Raises:
            ValueError: there is no call, but one was required.
        """
        del kwargs
        blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError(f"expected a tool call, and got the text {response.message.content!r}")
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=_arguments(block.tool_kwargs),
            )
            for block in blocks
        ]

    # --- requests -----------------------------------------------------------------------------

    def _request(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of an LLM syscall: the model's, overridden by the call's."""
        options, rest = read_options(kwargs)
        tools = translation.to_tools(rest.pop("tools", ()))
        choice = read_tool_choice(rest.pop("tool_choice", None), [tool.name for tool in tools])
        answer_format = read_response_format(rest.pop("response_format", None))
        said = {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": self.stop,
            "timeout_s": self.timeout,
            **options,
            "messages": translation.to_messages(messages),
            "tools": tools,
            "tool_choice": choice,
            "response_format": answer_format,
            "extra": rest,
        }
        return {name: value for name, value in said.items() if value is not None}

    # --- the agent that makes a call ----------------------------------------------------------

    def _agent_ref(self) -> AgentRef:
        settings = AgentSettings(self.group, self.priority, self.weight, self.budget)
        return agent_ref(self.agent, settings, self.kernel)

    # --- copies -------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that uses the same kernel and agent."""
        shared = {id(held): held for held in (self.kernel, self.agent)}
        return super().__deepcopy__({**shared, **(memo or {})})

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling: the agent by its name, and no kernel."""
        state = super().__getstate__()
        agent = self.agent.name if isinstance(self.agent, Agent) else self.agent
        return {**state, "__dict__": {**state["__dict__"], "kernel": None, "agent": agent}}


def map_steps(steps: ChatSteps) -> CompletionResponseGen:
    """Translate a stream of chat answers to completions; closing it closes the chat stream."""
    with closing(steps):
        for step in steps:
            yield translation.to_completion_response(step)


async def amap_steps(steps: AsyncChatSteps) -> CompletionResponseAsyncGen:
    """Translate a stream of chat answers (async form of `map_steps`)."""
    async with aclosing(steps):
        async for step in steps:
            yield translation.to_completion_response(step)


def _as_chat(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=prompt)]


def _arguments(said: dict[str, Any] | str) -> dict[str, Any]:
    """Return arguments for LlamaIndex's tools; of invalid JSON, the valid prefix is read."""
    if isinstance(said, dict):
        return said
    try:
        return parse_partial_json(said) if said else {}
    except ValueError:
        return {}
