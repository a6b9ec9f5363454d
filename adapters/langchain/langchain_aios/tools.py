"""Offer the kernel's tools to LangChain, and run LangChain's tools through the kernel.

    kernel_tools("calculator")     the kernel's tools, for any LangChain agent
    wrap_tools([my_tool])          LangChain's own tools; each call is a syscall
    AIOSMiddleware()               all tools of a `create_agent`; each call is a syscall
    wrap_tool_call, awrap_tool_call    all tools of a `ToolNode`; each call is a syscall

The kernel validates and coerces the arguments of LangChain's tools, and limits, checks,
journals and audits their calls. Then the tool runs as without the kernel, with its callbacks,
its injected state and its artifacts, on the event loop of its caller if it is asynchronous.
"""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import TypeIs

from aios_adapters import (
    MODEL_VISIBLE_ERRORS,
    AgentRef,
    ToolBridge,
    ToolOffer,
    as_text,
)
from aios_core import Agent, Kernel, ToolSpec
from aios_core.tools import StoredResult
from langchain_aios.callers import agent_ref

Declared = Mapping[str, Mapping[str, Any]]


# --- the kernel's tools in LangChain -------------------------------------------------------------


class AIOSTool(BaseTool):
    """A tool of the kernel. An error on which a model can act, such as a refusal, is its result."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _agent: AgentRef = PrivateAttr(default_factory=agent_ref)

    def _run(self, *_: Any, **arguments: Any) -> str:
        with self._agent.use() as agent:
            try:
                return as_text(agent.tools.run(self.name, arguments))
            except MODEL_VISIBLE_ERRORS as exc:
                return _said(exc)

    async def _arun(self, *_: Any, **arguments: Any) -> str:
        async with self._agent.ause() as agent:
            try:
                return as_text(await agent.tools.arun(self.name, arguments))
            except MODEL_VISIBLE_ERRORS as exc:
                return _said(exc)


def kernel_tools(
    *names: str,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
) -> list[BaseTool]:
    """Return tools of the kernel as LangChain's.

    Args:
        names: the tools; none: all that the agent may see.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the run.
        group: the group of an agent that is spawned.
        kernel: None for the default kernel of this process.

    Raises:
        InvalidRequest: there is no tool of that name.
    """
    ref = agent_ref(agent, group, kernel)
    with ref.use() as viewer:
        return _made(viewer.tools.specs(*names), ref)


async def akernel_tools(
    *names: str,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
) -> list[BaseTool]:
    """Return tools of the kernel as LangChain's (async form of `kernel_tools`)."""
    ref = agent_ref(agent, group, kernel)
    async with ref.ause() as viewer:
        return _made(await viewer.tools.aspecs(*names), ref)


def _made(specs: Iterable[ToolSpec], ref: AgentRef) -> list[BaseTool]:
    made: list[BaseTool] = []
    for spec in specs:
        tool = AIOSTool(
            name=spec.name, description=spec.description, args_schema=dict(spec.parameters)
        )
        tool._agent = ref  # noqa: SLF001 - a private attribute of ours
        made.append(tool)
    return made


# --- LangChain's tools through the kernel --------------------------------------------------------


class ToolGate:
    """Runs calls of LangChain's tools as syscalls."""

    def __init__(self, ref: AgentRef, declared: Declared | None = None) -> None:
        self._agent = ref
        self._declared = declared or {}
        self._bridge = ToolBridge()

    def call(
        self, tool: BaseTool, arguments: Mapping[str, Any], run: Callable[[dict[str, Any]], Any]
    ) -> Any:
        """Run a tool through the kernel. Returns the result of `run`.

        Raises:
            KernelError: the kernel refused the call. An exception of `run` passes unchanged.
        """
        with self._agent.use() as agent:
            outcome, stored = self._bridge.run(
                agent, self._offered(tool), _visible(tool, arguments), run
            )
        return outcome if stored is None else _with_reference(outcome, stored)

    async def acall(
        self,
        tool: BaseTool,
        arguments: Mapping[str, Any],
        run: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """Run a tool through the kernel on an event loop (async form of `call`)."""
        async with self._agent.ause() as agent:
            outcome, stored = await self._bridge.arun(
                agent, self._offered(tool), _visible(tool, arguments), run
            )
        return outcome if stored is None else _with_reference(outcome, stored)

    def _offered(self, tool: BaseTool) -> ToolOffer:
        function = convert_to_openai_tool(tool)["function"]
        return ToolOffer(
            function["name"],
            function["description"],
            function["parameters"],
            self._declared.get(tool.name, {}),
        )


class GatedTool(BaseTool):
    """A tool of LangChain with every call as a syscall. Made by `wrap_tools`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    wrapped: BaseTool

    _gate: ToolGate = PrivateAttr()

    def invoke(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the tool as LangChain does, when the kernel starts the call.

        An error of the kernel on which a model can act answers a model's call (a `ToolCall`) with
        a message of status "error", as a tool's own validation errors do. Other errors are raised.
        """
        given, rebuilt = _parted(self.wrapped, input)
        try:
            return self._gate.call(
                self.wrapped,
                given,
                lambda said: self.wrapped.invoke(rebuilt(said), config, **kwargs),
            )
        except MODEL_VISIBLE_ERRORS as exc:
            if _is_models(input):
                return _refusal(input, exc)
            raise

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the tool as LangChain does (async form of `invoke`)."""
        given, rebuilt = _parted(self.wrapped, input)
        try:
            return await self._gate.acall(
                self.wrapped,
                given,
                lambda said: self.wrapped.ainvoke(rebuilt(said), config, **kwargs),
            )
        except MODEL_VISIBLE_ERRORS as exc:
            if _is_models(input):
                return _refusal(input, exc)
            raise

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrapped._run(*args, **kwargs)  # noqa: SLF001 - LangChain's own protocol


def wrap_tools(
    tools: Sequence[BaseTool],
    *,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
    declared: Declared | None = None,
) -> list[BaseTool]:
    """Return LangChain's tools with each call as a syscall.

    Args:
        tools: LangChain's tools; their names, schemas and results stay.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the run.
        group: the group of an agent that is spawned.
        kernel: None for the default kernel of this process.
        declared: by name, further arguments of `aios_core.Tool`: `read_only`, `rate`,
            `exclusive`, `irreversible` ... The kernel assumes the worst of what is missing.
    """
    gate = ToolGate(agent_ref(agent, group, kernel), declared)
    made: list[BaseTool] = []
    for tool in tools:
        gated = GatedTool(
            name=tool.name,
            description=tool.description,
            args_schema=tool.args_schema,
            return_direct=tool.return_direct,
            response_format=tool.response_format,
            wrapped=tool,
        )
        gated._gate = gate  # noqa: SLF001 - a private attribute of ours
        made.append(gated)
    return made


class AIOSMiddleware(AgentMiddleware[Any, Any]):
    """Runs every tool call of an agent as a syscall.

    create_agent(model, tools, middleware=[AIOSMiddleware()])

    An error of the kernel on which a model can act becomes the tool's message, with status
    "error". The arguments are those of `wrap_tools`.
    """

    def __init__(
        self,
        *,
        agent: str | Agent | None = None,
        group: str | None = None,
        kernel: Kernel | None = None,
        declared: Declared | None = None,
    ) -> None:
        super().__init__()
        self._gate = ToolGate(agent_ref(agent, group, kernel), declared)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Run one call of a tool; also works as `ToolNode(wrap_tool_call=...)`."""
        call: ToolCall = request.tool_call
        if request.tool is None:
            return handler(request)
        try:
            return self._gate.call(
                request.tool,
                call["args"],
                lambda coerced: handler(_with_arguments(request, coerced)),
            )
        except MODEL_VISIBLE_ERRORS as exc:
            return _refusal(call, exc)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run one call of a tool (async form of `wrap_tool_call`)."""
        call: ToolCall = request.tool_call
        if request.tool is None:
            return await handler(request)
        try:
            return await self._gate.acall(
                request.tool,
                call["args"],
                lambda coerced: handler(_with_arguments(request, coerced)),
            )
        except MODEL_VISIBLE_ERRORS as exc:
            return _refusal(call, exc)


def tool_node_wrappers(
    *,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
    declared: Declared | None = None,
) -> dict[str, Any]:
    """Return the arguments for LangGraph's `ToolNode(tools, **tool_node_wrappers())`.

    The arguments are those of `AIOSMiddleware`.
    """
    middleware = AIOSMiddleware(agent=agent, group=group, kernel=kernel, declared=declared)
    return {
        "wrap_tool_call": middleware.wrap_tool_call,
        "awrap_tool_call": middleware.awrap_tool_call,
    }


# --- helpers -------------------------------------------------------------------------------------


def _visible(tool: BaseTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a model may give, without those that LangGraph injects."""
    known = convert_to_openai_tool(tool)["function"]["parameters"].get("properties", {})
    injected = set(getattr(tool.get_input_schema(), "model_fields", ())) - set(known)
    return {name: value for name, value in arguments.items() if name not in injected}


def _is_models(given: Any) -> TypeIs[ToolCall]:
    """Return whether a tool's input is a model's call, not plain arguments."""
    return isinstance(given, Mapping) and given.get("type") == "tool_call"


def _parted(tool: BaseTool, given: Any) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """Return the arguments of an input, and a function that puts coerced ones back into it."""
    if _is_models(given):
        arguments = dict(given["args"])
        return arguments, lambda said: {**given, "args": {**arguments, **said}}
    if isinstance(given, Mapping):
        arguments = dict(given)
        return arguments, lambda said: {**arguments, **said}
    name = next(iter(tool.args), "input")  # a text alone is the only argument
    return {name: given}, lambda said: said[name]


def _with_arguments(request: Any, arguments: Mapping[str, Any]) -> Any:
    call = request.tool_call
    return request.override(tool_call={**call, "args": {**call["args"], **arguments}})


def _refusal(call: ToolCall, error: Exception) -> ToolMessage:
    return ToolMessage(_said(error), tool_call_id=call["id"], name=call["name"], status="error")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _with_reference(outcome: Any, stored: StoredResult) -> Any:
    """Return the outcome with the kernel's reference in place of a too large content."""
    if isinstance(outcome, ToolMessage):
        return outcome.model_copy(update={"content": str(stored)})
    return str(stored) if isinstance(outcome, str) else outcome
