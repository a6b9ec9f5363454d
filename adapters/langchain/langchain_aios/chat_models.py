"""`ChatAIOS`: a chat model of LangChain that the kernel answers.

Every call is a syscall of the agent that makes it (found by `langchain_aios.callers`):
scheduled, accounted, checked and cancellable. All four ways to call are native: the
asynchronous ones use no thread and block no loop, streams pass deltas on as they arrive,
and cancelling the task or closing the stream cancels the syscall. Instances hold no loop
and no lock: they may be shared among threads and event loops, copied and pickled (an
unpickled one uses the default kernel of its process).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from difflib import get_close_matches
from operator import itemgetter
from typing import Any, Final, Literal, Self, get_args

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import AliasChoices, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from aios_adapters import (
    AgentRef,
    AgentSettings,
    read_options,
    read_tool_choice,
)
from aios_core import Agent, Budget, InvalidRequest, Kernel, default_kernel
from langchain_aios import model_methods, translation
from langchain_aios.callers import (
    RunManager,
    ref_for_run,
)
from langchain_aios.errors import translated
from langchain_aios.token_counts import Measure, count_messages, count_text, measure_of

# Arguments of a provider's models that the kernel does not need.
_OF_A_PROVIDER: Final = frozenset({"api_key", "base_url", "max_retries"})
_SETTINGS: Final = (
    *("model", "temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "n"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty"),
    *("logit_bias", "logprobs", "top_logprobs"),
)  # a call's arguments override them
Method = Literal["function_calling", "json_mode", "json_schema"]


class ChatAIOS(BaseChatModel):
    """A chat model that runs on the kernel.

    >>> llm = ChatAIOS()  # the default kernel starts at the first call
    >>> llm.invoke("hello").text

    Errors are those of `aios_core.errors`; if LangChain has a class for an error, it is an
    instance of both (`langchain_aios.errors`). Call arguments that are unknown to LangChain
    and the kernel are passed to the core's backend unchanged.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model: str | None = Field(
        default_factory=lambda: os.environ.get("LANGCHAIN_AIOS_MODEL"),
        validation_alias=AliasChoices("model", "model_name"),
    )
    """One that a core serves. None: `LANGCHAIN_AIOS_MODEL`, else the kernel's default."""
    temperature: float | None = None
    """None: not sent, the backend's own default holds (a core in this process is greedy then)."""
    max_tokens: int | None = None
    """Of one answer. None: as many as core and budget allow."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    """Makes sampling repeatable."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    """Whether `response_metadata` has the log probabilities of the answer's tokens."""
    top_logprobs: int | None = None
    n: int | None = None
    """How many answers to one prompt; all are in the result of `generate`."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """For the core's backend as they are, such as {"reasoning_effort": "low"}."""
    stop: list[str] | str | None = Field(
        default=None, validation_alias=AliasChoices("stop", "stop_sequences")
    )
    """Texts before which an answer ends."""
    timeout: float | None = None
    """Seconds until an answer is given up with `DeadlineExceeded`. None: the kernel's default."""
    streaming: bool = False
    """Whether `invoke` streams inside, for callbacks that want tokens."""

    agent: str | Agent | None = None
    """The agent that makes the calls, as a name or an agent. None: found from the run."""
    group: str | None = Field(default_factory=lambda: os.environ.get("LANGCHAIN_AIOS_GROUP"))
    """The agent's privilege group. None: `LANGCHAIN_AIOS_GROUP`, else the kernel's default."""
    priority: int | None = None
    """Of the agent; smaller is more urgent."""
    weight: float = 1.0
    """The agent's share of its group's service."""
    budget: Budget | None = None
    """What the agent may spend."""
    kernel: Kernel | None = Field(default=None, exclude=True, repr=False)
    """None: the default kernel of this process."""

    @model_validator(mode="before")
    @classmethod
    def _require_known(cls, values: Any) -> Any:
        """Refuse unknown arguments, since a misspelled limit must not be ignored."""
        known = {alias for name, f in cls.model_fields.items() for alias in _names(name, f)}
        for key in values if isinstance(values, dict) else ():
            if key in known or key in _OF_A_PROVIDER:
                continue
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InvalidRequest(f"{key}: no such argument; {hint}allowed: {sorted(known)}")
        return values

    # --- LangChain's public methods, which pass on the agent in `configurable` ----------------

    invoke = model_methods.hand_on(BaseChatModel.invoke)
    ainvoke = model_methods.hand_on(BaseChatModel.ainvoke)
    stream = model_methods.hand_on(BaseChatModel.stream)
    astream = model_methods.hand_on(BaseChatModel.astream)
    stream_events = model_methods.hand_on(BaseChatModel.stream_events)
    astream_events = model_methods.hand_on(BaseChatModel.astream_events)
    batch = model_methods.as_one(BaseChatModel.batch)
    abatch = model_methods.as_one_soon(BaseChatModel.abatch)
    batch_as_completed = model_methods.as_one_by_one(BaseChatModel.batch_as_completed)
    abatch_as_completed = model_methods.as_one_by_one_soon(BaseChatModel.abatch_as_completed)

    # --- LangChain's four ways to call --------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with translated():
            request = self._request(messages, stop, kwargs)
            with self.agent_ref(run_manager).use() as agent:
                return translation.to_result(agent.llm.generate(**request))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with translated():
            request = self._request(messages, stop, kwargs)
            async with self.agent_ref(run_manager).ause() as agent:
                return translation.to_result(await agent.llm.agenerate(**request))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with translated():
            request = self._request(messages, stop, kwargs)
            with self.agent_ref(run_manager).use() as agent, agent.llm.stream(**request) as deltas:
                yield from (translation.to_chunk(one) for one in deltas if one and not one.choice)
                yield translation.to_last_chunk(deltas.completion)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with translated(), ExitStack() as stack:  # a half-read stream must have nothing to await
            request = self._request(messages, stop, kwargs)
            agent = await self.agent_ref(run_manager).hold(stack)
            deltas = stack.enter_context(closing(agent.llm.astream(**request)))
            async for delta in deltas:
                if delta and not delta.choice:
                    yield translation.to_chunk(delta)
            yield translation.to_last_chunk(deltas.completion)

    # --- tools and structured output ----------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        parallel_tool_calls: bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model.

        Args:
            tools: anything that LangChain accepts as a tool.
            tool_choice: "auto"; "any", "required" or True to require any one of them; "none";
                the name of one; or OpenAI's or Anthropic's dictionary for any of these.
            parallel_tool_calls: whether one answer may hold several calls.
            strict: as in `convert_to_openai_tool`.
            kwargs: bound to the calls as well.

        Raises:
            InvalidRequest: `tool_choice` is unknown.
        """
        offered = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        names = [tool["function"]["name"] for tool in offered if "function" in tool]
        if tool_choice is not None:
            with translated():
                kwargs["tool_choice"] = read_tool_choice(tool_choice, names)
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=offered, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answer with an object of a schema.

        Args:
            schema: a pydantic class (the answers are its instances), a TypedDict or a JSON schema
                (the answers are dictionaries). None only for "json_mode".
            method: "function_calling" offers the schema as a tool that must be called, so the
                model reads it; "json_schema" constrains the answer to the schema; "json_mode"
                constrains it to a JSON object, which the prompt has to describe.
            include_raw: answer with `{"raw": AIMessage, "parsed": ..., "parsing_error": ...}`.
            strict: as in `convert_to_openai_tool`.
            kwargs: bound to the calls as well.

        Raises:
            ValueError: the method is unknown, or needs a schema.
        """
        if schema is None and method != "json_mode":
            raise ValueError(f"method {method!r} needs a schema; only 'json_mode' does without")
        kwargs["ls_structured_output_format"] = {"kwargs": {"method": method}, "schema": schema}
        match method:
            case "function_calling":
                llm, parser = self._calling(schema, strict, kwargs)
            case "json_schema":
                kwargs["response_format"] = translation.openai_format(schema, strict)
                llm, parser = self.bind(**kwargs), _json_parser(schema)
            case "json_mode":
                kwargs["response_format"] = {"type": "json_object"}
                llm, parser = self.bind(**kwargs), _json_parser(schema)
            case _:
                raise ValueError(f"method: got {method!r}; allowed: {get_args(Method)}")
        return _with_raw(llm, parser) if include_raw else llm | parser

    def _calling(
        self, schema: Any, strict: bool | None, kwargs: dict[str, Any]
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], Runnable[Any, Any]]:
        """Make the model call the schema as a tool."""
        name = convert_to_openai_tool(schema)["function"]["name"]
        kwargs = {"parallel_tool_calls": False, **kwargs}
        llm = self.bind_tools([schema], tool_choice=name, strict=strict, **kwargs)
        if _is_model(schema):
            return llm, PydanticToolsParser(tools=[schema], first_tool_only=True)
        return llm, JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)

    # --- requests -----------------------------------------------------------------------------

    def _request(
        self, messages: list[BaseMessage], stop: Sequence[str] | None, kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of an LLM syscall: the model's, overridden by the call's."""
        options, rest = read_options({**self.model_kwargs, **kwargs})
        tools = translation.to_tools(rest.pop("tools", None) or ())
        choice = read_tool_choice(rest.pop("tool_choice", None), [t.name for t in tools])
        request = {
            **self._settings,
            "stop": self.stop if stop is None else stop,
            **options,
            "messages": translation.to_messages(messages),
            "tools": tools,
            "tool_choice": choice,
            "response_format": translation.to_response_format(rest.pop("response_format", None)),
            "extra": rest,
        }
        return {name: value for name, value in request.items() if value is not None}

    @property
    def _settings(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in _SETTINGS}, "timeout_s": self.timeout}

    # --- the agent that makes a call ----------------------------------------------------------

    def agent_ref(self, run_manager: RunManager) -> AgentRef:
        """Refer to the agent that makes the call of a run."""
        settings = AgentSettings(self.group, self.priority, self.weight, self.budget)
        return ref_for_run(run_manager, self.agent, settings, self.kernel)

    # --- counts -------------------------------------------------------------------------------

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens that a text adds to a prompt, as the core counts."""
        return count_text(self._measure, self.model, text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the number of tokens of a prompt with these messages and tools."""
        with translated():
            return count_messages(self._measure, self.model, messages, tools)

    def get_token_ids(self, text: str) -> list[int]:
        """Raise `NotImplementedError`: cores report counts, not ids (`get_num_tokens`)."""
        raise NotImplementedError("the kernel counts tokens and has no ids; use get_num_tokens()")

    @property
    def _measure(self) -> Measure:
        if isinstance(self.agent, Agent):
            return self.agent.llm.measure
        return measure_of(self.kernel or default_kernel())

    # --- copies -------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that uses the same kernel and agent."""
        shared = {id(held): held for held in (self.kernel, self.agent)}
        return super().__deepcopy__({**shared, **(memo or {})})

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state for pickling: the agent by its name, and no kernel."""
        state = super().__getstate__()
        agent = self.agent.name if isinstance(self.agent, Agent) else self.agent
        return {**state, "__dict__": {**state["__dict__"], "kernel": None, "agent": agent}}

    # --- for callbacks, caches and tracers ----------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "aios"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self._settings, "stop": self.stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self._stop_list, **kwargs)
        params["ls_provider"] = "aios"
        params.setdefault("ls_model_name", "default")
        return params

    @property
    def _stop_list(self) -> list[str] | None:
        return [self.stop] if isinstance(self.stop, str) else self.stop


def _names(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Return the names under which a field may be given."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else ()
    return (name, *(choice for choice in choices if isinstance(choice, str)))


def _is_model(schema: Any) -> bool:
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def _json_parser(schema: Any) -> Runnable[Any, Any]:
    return PydanticOutputParser(pydantic_object=schema) if _is_model(schema) else JsonOutputParser()


def _with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Runnable[Any, Any]
) -> Runnable[LanguageModelInput, Any]:
    """Return the message together with the parsed object and the parsing error."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([unparsed], exception_key="parsing_error")
