"""Load and unload tools: the configured ones, and those that agents and the program add.

Loading runs third-party code, so it happens on threads; the loaded tools are put into
the registry on the kernel's loop, in one step. Each agent loads or unloads one source at a
time, within a time limit: neither another agent nor `close` waits for code that hangs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aios_core.config import McpServerConfig, ToolsConfig
from aios_core.errors import Conflict, KernelError, ToolError
from aios_core.redaction import learn, learn_settings
from aios_core.tools.function_origin import FunctionOrigin
from aios_core.tools.load_limit import LoadLimit
from aios_core.tools.mcp import CheckResult, McpConnections
from aios_core.tools.registry import Plugin, RegisteredTool, ToolRegistry, compile_tools
from aios_core.tools.requests import McpServer, require_source
from aios_core.tools.sources import installed_plugins, load, load_entry_point
from aios_core.tools.tool import Tool
from aios_core.untrusted.blocking_calls import call_on_thread
from aios_core.untrusted.third_party import ForeignException

log = logging.getLogger(__name__)

_Made = tuple[Plugin, tuple[RegisteredTool, ...]]


class ToolCatalog:
    """The loaded tools of a kernel. Nothing is loaded before the first request for a tool."""

    def __init__(self, config: ToolsConfig, check_result: CheckResult | None = None) -> None:
        """Prepare an empty catalog. `check_result` checks what MCP servers return, if given."""
        self.registry = ToolRegistry()
        self.problems: dict[str, str] = {}  # plug-ins that could not be loaded, and why
        self._config = config
        # Twice, since a result travels as JSON inside of JSON, with its quotes escaped.
        self._mcp = McpConnections(2 * config.max_result_bytes, check_result)
        self._held: dict[tuple[str | None, str], Callable[[], object]] = {}  # by owner and key
        self._loading: asyncio.Task[None] | None = None  # the configured plug-ins
        self._locks: dict[str | None, asyncio.Lock] = {}  # by loader
        self._slots = LoadLimit()

    def __repr__(self) -> str:
        return f"<ToolCatalog: {self.registry!r}>"

    async def load(
        self,
        source: Any,
        *,
        owner: str | None = None,
        loader: str | None = None,
        labels: frozenset[str] = frozenset(),
    ) -> tuple[str, ...]:
        """Load a source, or load it again, and offer its tools.

        Args:
            source: a file, a module, a plug-in, a function, a `Tool` or an MCP server.
            owner: the identity of the agent that may use the tools; None for all agents.
            loader: the identity of the agent that loads them; None for the program.
            labels: where the loader's data comes from; the tools carry them.

        Returns:
            The ids of the tools.

        Raises:
            NoSuchObject: there is no such file, module or plug-in.
            ToolError: its code raises, or takes longer than `tools.load_timeout_s`.
            BackendError: the MCP server cannot be used.
            InvalidRequest: it offers no tools, or bad ones.
            Conflict: another source offers one of them.
            Overloaded: too many sources are being loaded.
        """
        source = require_source(source)
        work: Callable[[], Plugin]
        if isinstance(source, McpServer):
            work = partial(self._mcp.load, source)
        else:
            work = partial(load, source)
        async with self._lock_of(loader):
            if not (isinstance(source, Tool) or callable(source)):
                await self._loaded_already()
            return await self._offer(work, owner, loader, labels)

    async def unload(
        self, name: str, *, owner: str | None = None, loader: str | None = None
    ) -> tuple[str, ...]:
        """Stop offering a plug-in, a tool or a version.

        Args:
            name: of a source, a tool ("calculator") or a version ("calculator@1").
            owner: the agent that was offered it alone; None for what all agents are offered.
            loader: the identity of the agent that asks for it; None for the program.

        Returns:
            The ids of the removed tools.

        Raises:
            NoSuchObject: nothing of that name is offered.
        """
        async with self._lock_of(loader):
            if owner is None:
                await self._loaded_already()
            removed = self.registry.remove(name, owner)
            self._release_unoffered(owner)
            return removed

    def forget(self, owner: str) -> None:
        """Remove the private tools of an exited agent and release what they hold."""
        self.registry.forget(owner)
        self._locks.pop(owner, None)
        self._release_unoffered(owner)

    async def loaded(self) -> None:
        """Wait until the configured plug-ins are loaded.

        Raises:
            Conflict: two of them offer the same tool.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_configured(), name="tools: loading")
        loading = self._loading
        try:
            await asyncio.shield(loading)
        except KernelError:
            if self._loading is loading:
                self._loading = None  # the next request tries again
            raise

    async def close(self) -> None:
        """Abandon what is being loaded and close the connections to MCP servers."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})
        await asyncio.to_thread(self._mcp.close)

    # --- inside ------------------------------------------------------------------------------

    async def _offer(
        self,
        work: Callable[[], Plugin],
        owner: str | None,
        loader: str | None = None,
        labels: frozenset[str] = frozenset(),
    ) -> tuple[str, ...]:
        def make() -> tuple[Plugin, tuple[RegisteredTool, ...]]:
            plugin = work()
            try:
                for tool in plugin.tools:
                    if tool.isolation == "process":
                        FunctionOrigin.of(tool)  # refuse it now rather than at its first call
                return plugin, compile_tools(plugin, owner, labels)
            except BaseException:
                _release(plugin)
                raise

        plugin, registered_tools = await self._made(make, loader)
        try:
            self.registry.put(plugin.key, registered_tools, owner)
        except KernelError:
            _release(plugin)
            raise
        older = self._held.pop((owner, plugin.key), None)
        if plugin.release is not None:
            self._held[owner, plugin.key] = plugin.release
        if older is not None:
            older()
        return tuple(registered.tool.id for registered in registered_tools)

    def _lock_of(self, loader: str | None) -> asyncio.Lock:
        return self._locks.setdefault(loader, asyncio.Lock())

    async def _made(self, make: Callable[[], _Made], loader: str | None) -> _Made:
        """Run third-party code on a thread of its own, within `tools.load_timeout_s`."""
        self._slots.take(loader)
        limit_s = self._config.load_timeout_s
        try:
            return await call_on_thread(
                make,
                "aios-tool-load",
                timeout_s=limit_s,
                on_late=lambda made: _release(made[0]),  # its caller stopped waiting
                on_end=partial(self._slots.give_back, loader),
            )
        except TimeoutError as exc:
            reason = f"not loaded within {limit_s:g} s (tools.load_timeout_s); its code may hang"
            raise ToolError("tools", reason) from exc
        except ForeignException as exc:
            raise ToolError("tools", f"cannot be loaded: {exc}") from exc

    def _release_unoffered(self, owner: str | None) -> None:
        """Release what is held by sources that no longer offer a tool."""
        offered = set(self.registry.keys(owner))
        for holder, key in tuple(self._held):
            if holder == owner and key not in offered:
                self._held.pop((holder, key))()

    async def _loaded_already(self) -> None:
        """Wait for the configured plug-ins, but tolerate a conflict.

        For a load or an unload, which may be what resolves the conflict.
        """
        try:
            await self.loaded()
        except Conflict as exc:
            log.warning("%s", exc)

    async def _load_configured(self) -> None:
        config = self._config
        entries = await call_on_thread(
            lambda: list(installed_plugins(config.plugins)), "aios-tool-load"
        )
        works: dict[str, Callable[[], Plugin]] = {
            f"plug-in {one.name}": partial(load_entry_point, one) for one in entries
        }
        works |= {source: partial(load, source, fresh=False) for source in config.load}
        works |= {
            f"mcp:{name}": partial(self._mcp.load, _mcp_server(name, server))
            for name, server in config.mcp.items()
        }
        for name, work in works.items():
            try:
                await self._offer(work, None)
            except Conflict:
                raise
            except KernelError as exc:  # the other sources are loaded all the same
                self.problems[name] = str(exc)
                log.error("%s is not loaded: %s", name, exc)  # noqa: TRY400 - its text is enough
            else:
                self.problems.pop(name, None)


def _release(plugin: Plugin) -> None:
    if plugin.release is not None:
        plugin.release()


def _mcp_server(name: str, config: McpServerConfig) -> McpServer:
    return McpServer(
        name=name,
        command=config.command,
        args=config.args,
        env=_from_environment(config.env),
        cwd=config.cwd,
        url=config.url,
        headers=_from_environment(config.headers),
        trusted=config.trusted,
        timeout_s=config.timeout_s,
    )


def _from_environment(values: Mapping[str, str]) -> dict[str, str]:
    """Replace values "env:NAME" by environment variables, so that no secret is in the file."""
    found = {
        name: os.environ.get(value.removeprefix("env:"), "") if value.startswith("env:") else value
        for name, value in values.items()
    }
    learn(*(found[name] for name, value in values.items() if value.startswith("env:")))
    learn_settings(found)
    return found
