"""Tools both ways: the kernel's in LlamaIndex, and LlamaIndex's through the kernel.

    kernel_tools("calculator")    the kernel's tools, for any LlamaIndex agent
    wrap_tools([my_tool])         LlamaIndex's own tools; each call is a syscall

A wrapped tool stays what it is: its arguments are validated and mended, its calls
limited, checked, journaled and audited by the kernel, and then it runs as it would
have. What the kernel refuses and a model can act on is the tool's output, marked as an
error.
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
    """What a model is told of a kernel's tool: its own JSON schema, not one made of a class."""

    def __init__(self, spec: ToolSpec) -> None:
        super().__init__(spec.description, spec.name)
        self._parameters = dict(spec.parameters)

    def get_parameters_dict(self) -> dict[str, Any]:
        """The schema of the arguments."""
        return {"type": "object", "properties": {}, **self._parameters}


class AIOSTool(AsyncBaseTool):
    """A tool of the kernel."""

    def __init__(self, spec: ToolSpec, ref: AgentRef) -> None:
        self._metadata = KernelToolMetadata(spec)
        self._name = spec.name
        self._agent = ref

    @property
    def metadata(self) -> ToolMetadata:
        """What a model is told."""
        return self._metadata

    def call(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run it."""
        del args
        with self._agent.use() as agent:
            try:
                return self._output(agent.tools.run(self._name, arguments), arguments)
            except MODEL_VISIBLE_ERRORS as exc:
                return _refused(self._name, arguments, exc)

    async def acall(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run it (async form of `call`)."""
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
    """Tools of the kernel, as LlamaIndex's.

    Args:
        names: which; none: all that the agent may see.
        agent: whose calls these are, by name or as an agent of the kernel; None: found.
        group: of an agent that is spawned.
        kernel: None for the embedded kernel of this process.

    Raises:
        InvalidRequest: one that is named is not there.
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
    """The same on an event loop, the kernel's own among them."""
    ref = agent_ref(agent, AgentSettings(group), kernel)
    async with ref.ause() as viewer:
        return [AIOSTool(spec, ref) for spec in await viewer.tools.aspecs(*names)]


class GatedTool(AsyncBaseTool):
    """A tool of LlamaIndex whose every call is a syscall. Made by `wrap_tools`."""

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
        """The wrapped tool's."""
        return self.wrapped.metadata

    def call(self, *args: Any, **arguments: Any) -> ToolOutput:
        """Run it as LlamaIndex does, once the kernel lets it."""
        with self._agent.use() as agent:
            try:
                outcome, stored = self._bridge.run(
                    agent,
                    self._offered,
                    arguments,
                    lambda mended: self.wrapped.call(*args, **mended),
                )
            except MODEL_VISIBLE_ERRORS as exc:
                return _refused(self._offered.name, arguments, exc)
        return _bounded(outcome, stored)

    async def acall(self, *args: Any, **arguments: Any) -> ToolOutput:
        """The same on an event loop, where the tool runs too."""
        async with self._agent.ause() as agent:
            try:
                outcome, stored = await self._bridge.arun(
                    agent,
                    self._offered,
                    arguments,
                    lambda mended: self.wrapped.acall(*args, **mended),
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
    """LlamaIndex's tools, each call a syscall.

    Args:
        tools: as they are, or functions; their names, schemas and results stay.
        agent: whose calls these are, by name or as an agent of the kernel; None: found.
        group: of an agent that is spawned.
        kernel: None for the embedded kernel of this process.
        declared: by name, what `aios_core.Tool` may say of a tool: `read_only`, `rate`,
            `exclusive`, `irreversible` ... What it does not say is taken at its worst.
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
    """The outcome, saying where the kernel keeps what is too large to be handed on."""
    if stored is None:
        return outcome
    return ToolOutput(
        content=str(stored),
        tool_name=outcome.tool_name,
        raw_input=outcome.raw_input,
        raw_output=stored,
    )
