"""The tools that there are now: the configured ones, those loaded since, and how they change.

Loading runs strangers' code, so it happens on threads; what it brings is put into
the registry on the kernel's loop, in one step. One load or unload at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aios_core.config import McpServerConfig, ToolsConfig
from aios_core.errors import Conflict, KernelError
from aios_core.tools.loading import installed_plugins, load, load_entry_point
from aios_core.tools.mcp import McpClients
from aios_core.tools.processes import Origin
from aios_core.tools.registry import Offer, Plugin, ToolRegistry, offers_of
from aios_core.tools.requests import McpServer
from aios_core.tools.tool import Tool

log = logging.getLogger(__name__)


class Catalogue:
    """See the module. Nothing is loaded before the first request asks for a tool."""

    def __init__(self, config: ToolsConfig) -> None:
        self.registry = ToolRegistry()
        self.problems: dict[str, str] = {}  # plug-ins that could not be loaded, and why
        self._config = config
        self._mcp = McpClients()
        self._loading: asyncio.Task[None] | None = None  # the configured plug-ins
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Catalogue: {self.registry!r}>"

    async def load(self, source: Any, *, owner: str | None = None) -> tuple[str, ...]:
        """Offer the tools of a source, or its tools of now if it was loaded before; their ids.

        Raises:
            NoSuchObject, ToolError, BackendError: it cannot be loaded.
            InvalidRequest: it offers no tools, or bad ones.
            Conflict: another source offers one of them.
        """
        work: Callable[[], Plugin]
        if isinstance(source, McpServer):
            work = partial(self._mcp.load, source)
        else:
            work = partial(load, source)
        async with self._lock:
            if not (isinstance(source, Tool) or callable(source)):
                await self._loaded_already()
            return await self._offer(work, owner)

    async def unload(self, name: str, *, owner: str | None = None) -> tuple[str, ...]:
        """Offer a plug-in, a tool or a version no more; the ids. Raises `NoSuchObject`."""
        async with self._lock:
            before = set(self.registry.keys(owner))
            removed = self.registry.remove(name, owner)
            for key in before.difference(self.registry.keys(owner)):
                if key.startswith("mcp:"):
                    await asyncio.to_thread(self._mcp.unload, key.removeprefix("mcp:"))
            return removed

    async def loaded(self) -> None:
        """Wait for the configured plug-ins. Raises `Conflict` if two offer the same tool."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_configured(), name="tools: loading")
        loading = self._loading
        try:
            await asyncio.shield(loading)
        except KernelError:
            if self._loading is loading:
                self._loading = None  # tried again by the next request
            raise

    async def close(self) -> None:
        """Give up what is being loaded, and close the connections to MCP servers."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})
        await asyncio.to_thread(self._mcp.close)

    # --- inside ------------------------------------------------------------------------------

    async def _offer(self, work: Callable[[], Plugin], owner: str | None) -> tuple[str, ...]:
        def make() -> tuple[Plugin, tuple[Offer, ...]]:
            plugin = work()
            for tool in plugin.tools:
                if tool.isolation == "process":
                    Origin.of(tool)  # or else refuse it now
            return plugin, offers_of(plugin, owner)

        plugin, offers = await asyncio.to_thread(make)
        self.registry.put(plugin.key, offers, owner)
        return tuple(offer.tool.id for offer in offers)

    async def _loaded_already(self) -> None:
        """The same for a load, which may be what mends a conflict."""
        try:
            await self.loaded()
        except Conflict as exc:
            log.warning("%s", exc)

    async def _load_configured(self) -> None:
        config = self._config
        entries = await asyncio.to_thread(lambda: list(installed_plugins(config.plugins)))
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
            except KernelError as exc:  # the others are not to suffer
                self.problems[name] = str(exc)
                log.error("%s is not loaded: %s", name, exc)  # noqa: TRY400 - the cause is told
            else:
                self.problems.pop(name, None)


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
    """Secrets stand in the environment, not in the file: "env:NAME"."""
    return {
        name: os.environ.get(value.removeprefix("env:"), "") if value.startswith("env:") else value
        for name, value in values.items()
    }
