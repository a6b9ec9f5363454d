"""Offer the kernel's tools to LlamaIndex, and run LlamaIndex's tools through the kernel.

    kernel_tools("calculator")    the kernel's tools, for any LlamaIndex agent
    wrap_tools([my_tool])         LlamaIndex's own tools; each call is a syscall

The kernel validates and coerces the arguments of a wrapped tool, and limits, checks, journals
and audits its calls; then the tool runs as without the kernel. An error of the kernel on which
a model can act is the tool's output, marked as an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.tools import AsyncBaseTool, FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.tools.types import BaseTool, adapt_to_async_tool

from aios_adapters import (
    MODEL_VISIBLE_ERRORS,
    AgentRef,
    AgentSettings,
    ToolBridge,
    ToolOffer,
    as_text,
)
from aios_core import Agent, Kernel, ToolSpec
from aios_core.tools import StoredResult
from llama_index_aios.callers import agent_ref

Declared = Mapping[str, Mapping[str, Any]]


class KernelToolMetadata(ToolMetadata):
    """The description of a kernel's tool, with its own JSON schema instead of a class."""

    def __init__(self, spec: ToolSpec) -> None:
        super().__init__(spec.description, spec.name)
        self._parameters = dict(spec.parameters)

    def get_parameters_dict(self) -> dict[str, Any]:
        """Return the schema of the arguments."""
        return {"type": "object", "properties": {}, **self._parameters}


class AIOSTool(AsyncBaseTool):
    """A tool of the kernel."""

    def __init__(self, spec: ToolSpec, ref: AgentRef) -> None:
        self._metadata = KernelToolMetadata(spec)
        self._name = spec.name
        self._agent = ref

    @property
    def metadata(self) -> ToolMetadata:
        """The description of the tool for the model."""
        return self._metadata

    def call(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run the tool."""
        del args
        with self._agent.use() as agent:
            try:
                return self._output(agent.tools.run(self._name, arguments), arguments)
            except MODEL_VISIBLE_ERRORS as exc:
                return _refused(self._name, arguments, exc)

    async def acall(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run the tool (async form of `call`)."""
        del args
        async with self._agent.ause() as agent:
            try:
                return self._output(await agent.tools.arun(self._name, arguments), arguments)
            except MODEL_VISIBLE_ERRORS as exc:
                return _refused(self._name, arguments, exc)

    def _output(self, result: Any, arguments: dict[str, Any]) -> ToolOutput:
        return ToolOutput(
            content=as_text(result), tool_name=self._name, raw_input=arguments, raw_output=result
        )


def kernel_tools(
    *names: str,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
) -> list[BaseTool]:
    """Return tools of the kernel as LlamaIndex's.

    Args:
        names: the tools; none: all that the agent may see.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the run.
        group: the group of an agent that is spawned.
        kernel: None for the default kernel of this process.

    Raises:
        InvalidRequest: there is no tool of that name.
    """
    ref = agent_ref(agent, AgentSettings(group), kernel)
    with ref.use() as viewer:
        return [AIOSTool(spec, ref) for spec in viewer.tools.specs(*names)]


async def akernel_tools(
    *names: str,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
) -> list[BaseTool]:
    """Return tools of the kernel as LlamaIndex's (async form of `kernel_tools`)."""
    ref = agent_ref(agent, AgentSettings(group), kernel)
    async with ref.ause() as viewer:
        return [AIOSTool(spec, ref) for spec in await viewer.tools.aspecs(*names)]


class GatedTool(AsyncBaseTool):
    """A tool of LlamaIndex with every call as a syscall. Made by `wrap_tools`."""

    def __init__(
        self, wrapped: BaseTool, ref: AgentRef, bridge: ToolBridge, declared: Mapping[str, Any]
    ) -> None:
        self.wrapped = adapt_to_async_tool(wrapped)
        self._agent = ref
        self._bridge = bridge
        about = wrapped.metadata
        function = about.to_openai_tool(skip_length_check=True)["function"]
        self._offered = ToolOffer(
            function["name"], function["description"], function["parameters"], declared
        )

    @property
    def metadata(self) -> ToolMetadata:
        """The description of the wrapped tool."""
        return self.wrapped.metadata

    def call(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run the tool as LlamaIndex does, when the kernel starts the call."""
        with self._agent.use() as agent:
            try:
                outcome, stored = self._bridge.run(
                    agent,
                    self._offered,
                    arguments,
                    lambda coerced: self.wrapped.call(*args, **coerced),
                )
            except MODEL_VISIBLE_ERRORS as exc:
                return _refused(self._offered.name, arguments, exc)
        return _bounded(outcome, stored)

    async def acall(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run the tool on this event loop, when the kernel starts the call."""
        async with self._agent.ause() as agent:
            try:
                outcome, stored = await self._bridge.arun(
                    agent,
                    self._offered,
                    arguments,
                    lambda coerced: self.wrapped.acall(*args, **coerced),
                )
            except MODEL_VISIBLE_ERRORS as exc:
                return _refused(self._offered.name, arguments, exc)
        return _bounded(outcome, stored)


def wrap_tools(
    tools: Sequence[BaseTool | Callable[..., Any]],
    *,
    agent: str | Agent | None = None,
    group: str | None = None,
    kernel: Kernel | None = None,
    declared: Declared | None = None,
) -> list[BaseTool]:
    """Return LlamaIndex's tools with each call as a syscall.

    Args:
        tools: LlamaIndex's tools, or functions; their names, schemas and results stay.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the run.
        group: the group of an agent that is spawned.
        kernel: None for the default kernel of this process.
        declared: by name, further arguments of `aios_core.Tool`: `read_only`, `rate`,
            `exclusive`, `irreversible` ... The kernel assumes the worst of what is missing.
    """
    ref, bridge = agent_ref(agent, AgentSettings(group), kernel), ToolBridge()
    made: list[BaseTool] = []
    for one in tools:
        tool = one if isinstance(one, BaseTool) else FunctionTool.from_defaults(one)
        said = (declared or {}).get(tool.metadata.get_name(), {})
        made.append(GatedTool(tool, ref, bridge, said))
    return made


def _refused(name: str, arguments: dict[str, Any], error: Exception) -> ToolOutput:
    return ToolOutput(
        content=f"{type(error).__name__}: {error}",
        tool_name=name,
        raw_input=arguments,
        raw_output=error,
        is_error=True,
    )


def _bounded(outcome: ToolOutput, stored: StoredResult | None) -> ToolOutput:
    """Return the outcome with the kernel's reference in place of a too large content."""
    if stored is None:
        return outcome
    return ToolOutput(
        content=str(stored),
        tool_name=outcome.tool_name,
        raw_input=outcome.raw_input,
        raw_output=stored,
    )
