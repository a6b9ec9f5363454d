"""Run AutoGen's tools through the kernel, and offer the kernel's tools to AutoGen.

Every call of `AIOSWorkbench` is a syscall of the agent that makes it: arguments are
validated (and coerced where that is harmless), calls are limited, checked and audited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, Unpack
from weakref import WeakSet

from autogen_core import CancellationToken, Component, ComponentModel
from autogen_core.tools import (
    BaseTool,
    FunctionTool,
    ParametersSchema,
    TextResultContent,
    ToolResult,
    ToolSchema,
    Workbench,
)
from pydantic import BaseModel

from aios_adapters import MODEL_VISIBLE_ERRORS, as_text
from aios_core import Agent, Kernel, Tool
from aios_core.errors import InvalidRequest
from aios_core.tools import ToolDeclaration
from autogen_aios.callers import agent_ref

AnyTool = BaseTool[Any, Any] | Tool | Callable[..., Any]


def wrap_tool(tool: AnyTool, **declared: Unpack[ToolDeclaration]) -> Tool:
    """Return a tool of AutoGen, or a function, as a tool of the kernel.

    Args:
        tool: its name, description and schema are kept. A tool of the kernel is returned as it is.
        declared: further arguments of `aios_core.Tool`, such as `read_only` or `rate`.
    """
    if isinstance(tool, Tool):
        return tool
    if not isinstance(tool, BaseTool):
        tool = FunctionTool(tool, description=(tool.__doc__ or "").strip())
    theirs, schema = tool, tool.schema

    async def run(**arguments: Any) -> str:
        token = CancellationToken()
        try:
            result = await theirs.run_json(arguments, token)
        finally:
            token.cancel()  # ends work that the tool has started and not awaited
        return theirs.return_value_as_string(result)

    parameters = dict(schema.get("parameters") or {"type": "object", "properties": {}})
    return Tool(schema["name"], schema.get("description", ""), parameters, run, **declared)


class AIOSWorkbenchConfig(BaseModel):
    """The configuration of a workbench."""

    names: list[str] | None = None
    offered: list[ComponentModel] = []
    agent: str | None = None
    group: str | None = None


class AIOSWorkbench(Workbench, Component[AIOSWorkbenchConfig]):
    """Tools of the kernel, for `AssistantAgent(workbench=...)`.

    Args:
        offered: tools of AutoGen, functions or `aios_core.Tool`s. They become tools of this agent
            alone, when it first uses this workbench.
        names: the kernel's tools that the agent gets in addition; None: all if nothing is offered,
            else none.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the caller.
        group: the agent's privilege group; None for the kernel's default.
        kernel: None for the default kernel of this process.
    """

    component_config_schema = AIOSWorkbenchConfig
    component_provider_override = "autogen_aios.AIOSWorkbench"

    def __init__(
        self,
        offered: Sequence[AnyTool] = (),
        *,
        names: Sequence[str] | None = None,
        agent: str | Agent | None = None,
        group: str | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self._given = tuple(offered)
        self._offered = tuple(wrap_tool(tool) for tool in offered)
        self._names = None if names is None else tuple(names)
        self._agent = agent_ref(agent, group, kernel)
        self._served: Final[WeakSet[Agent]] = WeakSet()  # agents that have the offered tools

    async def list_tools(self) -> list[ToolSchema]:
        """Return the tools that the agent may call."""
        async with self._agent.ause() as agent:
            await self._offer(agent)
            own = [tool.name for tool in self._offered]
            if self._names is None:
                specs = await agent.tools.aspecs(*own)
            elif own or self._names:
                specs = await agent.tools.aspecs(*own, *self._names)
            else:
                specs = ()
        return [
            ToolSchema(
                name=spec.name,
                description=spec.description,
                parameters=ParametersSchema(**{"properties": {}, **spec.parameters}),  # type: ignore[typeddict-item] # a JSON schema
            )
            for spec in specs
        ]

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,  # noqa: ARG002 - models repeat them; the kernel numbers calls
    ) -> ToolResult:
        """Run a tool.

        Returns:
            The result. An error on which a model can act, such as a refusal, is a result with
            `is_error`.

        Raises:
            KernelError: an error on which a model cannot act, such as `KernelClosed`.
        """
        async with self._agent.ause() as agent:
            await self._offer(agent)
            work = asyncio.ensure_future(_answered(agent, name, arguments or {}))
            if cancellation_token is not None:
                cancellation_token.link_future(work)
            return await work

    async def _offer(self, agent: Agent) -> None:
        if self._offered and agent not in self._served:
            for tool in self._offered:
                await agent.tools.aoffer(tool)
            self._served.add(agent)

    async def start(self) -> None:
        """Do nothing: the kernel runs the tools."""

    async def stop(self) -> None:
        """Do nothing: offered tools are removed when their agents exit."""

    async def reset(self) -> None:
        """Do nothing: a workbench has no state."""

    async def save_state(self) -> Mapping[str, Any]:
        """Return an empty state: a workbench has none."""
        return {}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing: a workbench has no state."""

    def _to_config(self) -> AIOSWorkbenchConfig:
        if others := [tool for tool in self._given if not isinstance(tool, BaseTool)]:
            raise InvalidRequest(f"configuration of tools: got {others}; allowed: AutoGen's tools")
        return AIOSWorkbenchConfig(
            names=None if self._names is None else list(self._names),
            offered=[tool.dump_component() for tool in self._given if isinstance(tool, BaseTool)],
            agent=self._agent.name,
            group=self._agent.settings.group,
        )

    @classmethod
    def _from_config(cls, config: AIOSWorkbenchConfig) -> Self:
        return cls(
            [BaseTool.load_component(tool) for tool in config.offered],
            names=config.names,
            agent=config.agent,
            group=config.group,
        )


async def _answered(agent: Agent, name: str, arguments: Mapping[str, Any]) -> ToolResult:
    try:
        text, is_error = as_text(await agent.tools.arun(name, arguments)), False
    except MODEL_VISIBLE_ERRORS as exc:
        text, is_error = f"{type(exc).__name__}: {exc}", True
    return ToolResult(name=name, result=[TextResultContent(content=text)], is_error=is_error)
