"""AutoGen's tools through the kernel, and the kernel's tools in AutoGen.

Every call of `AIOSWorkbench` is a syscall of the agent that makes it: arguments are
validated (and mended where that does no harm), calls are limited, checked and audited.
"""

from __future__ import annotations

import asyncio
import json
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

from aios_core import Agent, Kernel, Tool
from aios_core.errors import (
    InvalidRequest,
    LimitReached,
    RetryLater,
    SandboxUnavailable,
    ToolError,
)
from aios_core.tools import ToolDeclaration
from autogen_aios.callers import agent_ref

# What a model can act on; anything else is for the program that runs the agent.
_FOR_THE_MODEL: Final = (InvalidRequest, RetryLater, LimitReached, ToolError, SandboxUnavailable)

AnyTool = BaseTool[Any, Any] | Tool | Callable[..., Any]


def wrap_tool(tool: AnyTool, **declared: Unpack[ToolDeclaration]) -> Tool:
    """A tool of AutoGen, or a function, as one of the kernel.

    Args:
        tool: its name, description and schema are kept. One of the kernel stays as it is.
        declared: what `aios_core.Tool` may say besides, such as `read_only` or `rate`.
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
            token.cancel()  # whatever it has started and not waited for
        return theirs.return_value_as_string(result)

    parameters = dict(schema.get("parameters") or {"type": "object", "properties": {}})
    return Tool(schema["name"], schema.get("description", ""), parameters, run, **declared)


class AIOSWorkbenchConfig(BaseModel):
    """What a workbench is made of."""

    names: list[str] | None = None
    offered: list[ComponentModel] = []
    agent: str | None = None
    group: str | None = None


class AIOSWorkbench(Workbench, Component[AIOSWorkbenchConfig]):
    """Tools of the kernel, for `AssistantAgent(workbench=...)`.

    Args:
        offered: tools of AutoGen, functions or `aios_core.Tool`s that become tools of the
            agent, its alone, when it first looks at this workbench.
        names: of the kernel's tools, which the agent shall see besides; None: with `offered`
            none, and without all there are.
        agent: whose calls these are, by name or as an agent of the kernel; None: found.
        group: the agent's privilege group; None for the kernel's default.
        kernel: None for the embedded kernel of this process.
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
        self._served: Final[WeakSet[Agent]] = WeakSet()  # those that were offered our tools

    async def list_tools(self) -> list[ToolSchema]:
        """What the agent may call."""
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
        """Run a tool. What a model can act on, a refusal for one, is a result with `is_error`.

        Raises what it cannot act on: `SyscallCancelled`, `KernelClosed` and the like.
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
        """Nothing has to be started; the kernel's workers are there."""

    async def stop(self) -> None:
        """Nothing is held; offered tools go with their agents."""

    async def reset(self) -> None:
        """There is no state."""

    async def save_state(self) -> Mapping[str, Any]:
        """There is none."""
        return {}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """There is none."""

    def _to_config(self) -> AIOSWorkbenchConfig:
        if others := [tool for tool in self._given if not isinstance(tool, BaseTool)]:
            raise InvalidRequest(f"only tools of AutoGen can be written down, not {others}")
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
        said, is_error = _as_text(await agent.tools.arun(name, arguments)), False
    except _FOR_THE_MODEL as exc:
        said, is_error = f"{type(exc).__name__}: {exc}", True
    return ToolResult(name=name, result=[TextResultContent(content=said)], is_error=is_error)


def _as_text(result: Any) -> str:
    """A result as a model reads it; one that is stored says where the rest is."""
    try:
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except TypeError:
        return str(result)
