"""The tool manager: serves the syscalls of `aios_core.tools.requests`.

    ToolRun ──> resolve, validate ──(access check)──> run (`executor`) ──> answer

Promises: arguments that do not fit a tool's schema reach neither the access check nor the
tool; a tool that raises, hangs, exits or returns too much harms only its caller; no code of a
tool runs on the kernel's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from aios_core.clock import Clock
from aios_core.config import ToolsConfig
from aios_core.errors import InvalidArguments, InvalidRequest
from aios_core.labels import labels_of_all, with_all_labels, with_labels
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.queueing.policy import Policy
from aios_core.state import StateOpener
from aios_core.syscalls import Discloses, Request
from aios_core.tools.catalog import ToolCatalog
from aios_core.tools.dispatcher import ToolDispatcher
from aios_core.tools.executor import ToolExecutor
from aios_core.tools.journal import ToolJournal
from aios_core.tools.protocols import CodeRunner, Ports
from aios_core.tools.registry import RegisteredTool
from aios_core.tools.requests import (
    ToolInDoubtList,
    ToolInfo,
    ToolList,
    ToolLoad,
    ToolRead,
    ToolResolve,
    ToolRun,
    ToolUnload,
)
from aios_core.tools.results import StoredResults
from aios_core.tools.scheduler import ToolLimits, ToolScheduler
from aios_core.tools.schema_processes import SchemaProcesses
from aios_core.tools.tool import Tool

_UNDECLARED: Final = frozenset(
    {"name", "description", "parameters", "function", "version", "context_name"}
)
_DAY_S: Final = 86_400.0
_CODE_MARGIN_S: Final = 15.0  # for copying files: code reaches its own limit before its tool does


@dataclass(frozen=True, slots=True)
class PreparedRun(Request[Any]):
    """A `ToolRun` with its tool resolved and its arguments validated, for the access check."""

    kind: ClassVar[str] = ToolRun.kind
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    registered: RegisteredTool
    arguments: Mapping[str, Any]
    idempotency_key: str | None

    def access(self, identity: str) -> Access:  # noqa: ARG002 - the tool has its owner
        """Return the access: to run the tool with these arguments, and "@version"."""
        tool = self.registered.tool
        return Access(
            self.kind,
            Right.EXECUTE,
            Resource("tool", self.registered.owner, tool.name),
            {**self.arguments, "@version": tool.version},
            irreversible=tool.irreversible,
        )


class ToolManager:
    """Serves the tool syscalls of one kernel. Implements `aios_core.manager.Manager`."""

    name = "tool"
    requests: Sequence[type[Request[Any]]] = (
        ToolRun,
        ToolList,
        ToolLoad,
        ToolUnload,
        ToolRead,
        ToolInDoubtList,
        ToolResolve,
    )

    def __init__(
        self,
        config: ToolsConfig,
        state: StateOpener,
        *,
        clock: Clock,
        ports: Ports,
        policy: Policy,
        code_runner: CodeRunner | None = None,
    ) -> None:
        """Prepare a manager without starting a thread, a process or a load.

        Args:
            config: the section `tools` of the configuration.
            state: the state directory, for intents and large results; opened for the first one.
            clock: of the kernel.
            ports: makes an agent's port to the kernel, for tools that use the kernel.
            policy: the scheduling policy, which orders the waiting calls.
            code_runner: the sandbox for untrusted code; None if there is none.
        """
        self._config = config
        self._clock = clock
        self._schemas = SchemaProcesses()
        self.catalog = ToolCatalog(config, self._schemas.check_result)
        self._journal = ToolJournal(state, keep_s=_DAY_S * config.journal_days)
        self._results = StoredResults(state, max_bytes=config.max_stored_bytes)
        self._dispatcher = ToolDispatcher(
            ToolScheduler(_limits(config), policy),
            clock=clock,
            default_timeout_s=config.timeout_s,
            code_timeout_s=max(config.timeout_s, config.sandbox.wall_s + _CODE_MARGIN_S),
            max_result_bytes=config.max_result_bytes,
        )
        self._executor = ToolExecutor(
            config,
            self._dispatcher,
            self._journal,
            self._results,
            clock=clock,
            ports=ports,
            code_runner=code_runner,
        )

    def __repr__(self) -> str:
        return f"<ToolManager: {self.catalog!r}, {self._dispatcher!r}>"

    # --- Manager -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Do nothing: plug-ins are loaded at the first request for a tool."""

    async def prepare(self, process: AgentProcess, request: Any) -> Request[Any]:
        """Resolve and validate a `ToolRun`, before the access check.

        Raises:
            NoSuchObject: there is no such tool.
            InvalidArguments: the arguments do not fit its schema.
        """
        if not isinstance(request, ToolRun):
            checked: Request[Any] = request
            return checked
        await self.catalog.loaded()
        registered = self.catalog.registry.resolve(request.name, process.identity)
        try:
            arguments = await self._checked(process.identity, registered, request.arguments)
        except InvalidArguments as exc:
            raise exc.with_labels(registered.labels) from None  # it quotes the schema
        return PreparedRun(registered, arguments, request.idempotency_key)

    async def perform(self, process: AgentProcess, request: Any) -> Any:  # noqa: PLR0911 - a table
        """Serve one of `requests`; a `ToolRun` in the form that `prepare` returns."""
        match request:
            case PreparedRun(registered, arguments, key):
                return await self._executor.run(process, registered, arguments, key)
            case ToolList():
                return await self._list(process)
            case ToolLoad():
                return await self._load(process, request)
            case ToolUnload():
                owner = process.identity if request.is_private else None
                labels = self.catalog.registry.labels_of_owner(owner)
                return with_labels(
                    await self.unload(request.name, owner=owner, loader=process.identity), labels
                )
            case ToolRead():
                return await self._read(process, request)
            case ToolInDoubtList():
                return with_all_labels(await self._journal.in_doubt(process.identity))
            case ToolResolve(call_id, took_effect):
                return await self._journal.resolve(
                    process.identity, call_id, took_effect=took_effect
                )
            case _:
                raise InvalidRequest(f"the tool manager does not perform {request!r:.100}")

    async def holds(self, resource: Resource) -> bool | None:
        """Return whether an agent has a private tool of that name; None if it is not its own."""
        owner, name = resource.owner, resource.name.partition("@")[0]
        if resource.kind != "tool" or owner is None:
            return None
        own = {one.tool.name for one in self.catalog.registry if one.owner == owner}
        return not name or name in own

    async def knows(self, identity: str) -> bool:  # noqa: ARG002 - a `Holder`'s
        """Return False: private tools end with their process, so no earlier one left any."""
        return False

    def forget(self, process: AgentProcess) -> None:
        """Remove the private tools of an exited agent."""
        self.catalog.forget(process.identity)
        self._dispatcher.forget(process.pid)
        self._drop_idle()

    async def close(self) -> None:
        """End running tools as far as possible, and wait until known outcomes are journaled."""
        await self.catalog.close()
        await asyncio.to_thread(self._schemas.close)
        await self._dispatcher.close()
        await self._schemas.wait_idle()
        await self._executor.wait_idle()

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        self._dispatcher.check()

    async def unload(
        self, name: str, *, owner: str | None = None, loader: str | None = None
    ) -> tuple[str, ...]:
        """Stop offering a plug-in, a tool or a version. Returns the ids of the removed tools.

        Raises:
            NoSuchObject: nothing of that name is offered.
        """
        removed = await self.catalog.unload(name, owner=owner, loader=loader)
        self._drop_idle()
        return removed

    # --- inside ------------------------------------------------------------------------------

    async def _checked(
        self, agent: str, registered: RegisteredTool, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the arguments in the form that the tool gets. Raises `InvalidArguments`."""
        tool = registered.tool
        if registered.schema.is_quick(arguments):
            return registered.schema.validate(arguments, repairs=tool.repairs)
        return await self._schemas.check(
            agent, tool.name, registered.schema.schema, arguments, repairs=tool.repairs
        )

    async def _load(self, process: AgentProcess, request: ToolLoad) -> Any:
        owner = process.identity if request.is_private else None
        labels = frozenset(process.labels)
        ids = await self.catalog.load(
            request.source, owner=owner, loader=process.identity, labels=labels
        )
        registered_tools = self.catalog.registry.visible(owner)
        return with_labels(
            ids,
            labels_of_all(
                [registered for registered in registered_tools if registered.tool.id in ids]
            ),
        )

    async def _list(self, process: AgentProcess) -> Any:
        await self.catalog.loaded()
        visible = self.catalog.registry.visible(process.identity)
        return with_labels(
            tuple(self._describe(registered, process) for registered in visible),
            labels_of_all(visible),
        )

    def _describe(self, registered: RegisteredTool, process: AgentProcess) -> ToolInfo:
        queue = self._dispatcher.scheduler.queue(registered.queue_name)
        return ToolInfo(
            name=registered.tool.name,
            version=registered.tool.version,
            description=registered.tool.description,
            parameters=registered.tool.parameters,
            source=registered.source,
            is_newest=self.catalog.registry.is_newest(registered, process.identity),
            owner=registered.owner,
            declared=declared_by(registered.tool),
            num_running=queue.num_running,
            num_waiting=queue.num_waiting,
            refused_for_s=queue.breaker.refused_for(process.pid, self._clock.now()),
        )

    async def _read(self, process: AgentProcess, request: ToolRead) -> Any:
        text, labels = await self._results.get(process.identity, request.reference)
        piece = text[request.offset :][: request.length]
        return with_labels(piece, labels)

    def _drop_idle(self) -> None:
        self._dispatcher.scheduler.drop_idle(self.catalog.registry.is_offered)


def declared_by(tool: Tool) -> dict[str, Any]:
    """Return the declarations of a tool that differ from the default, by name."""
    return {
        one.name: getattr(tool, one.name)
        for one in fields(tool)
        if one.name not in _UNDECLARED and getattr(tool, one.name) != one.default
    }


def _limits(config: ToolsConfig) -> ToolLimits:
    return ToolLimits(
        max_running=config.max_running,
        max_running_per_agent=config.max_running_per_agent,
        max_processes=config.max_processes,
        max_lingering=config.max_running,
        max_waiting=config.max_waiting,
        max_waiting_per_agent=config.max_waiting_per_agent,
        max_failures=config.breaker_failures,
        cooldown_s=config.breaker_cooldown_s,
    )
