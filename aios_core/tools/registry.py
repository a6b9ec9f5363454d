"""The registry of offered tools, with their sources and owners. Used on the kernel's loop only.

A plug-in's tools are added in one step that also replaces those of its earlier load: no agent
sees half of a reload. Several versions of a tool can be offered together; the bare name means
the newest. An agent's private tools hide shared tools of the same name.

Promise: no name and version is offered twice to one agent; a second offer is refused with an
error that names both sources, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aios_core.errors import Conflict, NoSuchObject
from aios_core.labels import labels_of_all
from aios_core.tools.tool import Tool
from aios_core.tools.validation import ArgumentSchema


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredTool:
    """A tool with its source and its owner."""

    tool: Tool
    schema: ArgumentSchema
    source: str  # for people: "plug-in calculator of aios-plugins 0.1.0"
    owner: str | None = None  # the identity of the agent that has it privately; None: shared
    labels: frozenset[str] = frozenset()  # the sources of its name and its description

    @property
    def queue_name(self) -> str:
        """The name of the queue of its calls."""
        return f"{self.owner or ''}:{self.tool.id}"


@dataclass(frozen=True, slots=True)
class Plugin:
    """The tools of one source. `key` identifies it: loading the same key again is a reload."""

    key: str
    source: str
    tools: tuple[Tool, ...]
    release: Callable[[], object] | None = None  # called once no tool is offered; must be quick
    is_foreign: bool = False  # names and descriptions come from an untrusted third party


def compile_tools(
    plugin: Plugin, owner: str | None = None, labels: frozenset[str] = frozenset()
) -> tuple[RegisteredTool, ...]:
    """Compile the schemas of a plug-in's tools, which may take time.

    Args:
        plugin: the tools; if it is foreign, their descriptions are as untrusted as their results,
            and get the same label.
        owner: the agent that has them privately; None for all agents.
        labels: of the agent that offers them.

    Raises:
        InvalidRequest: a schema is invalid.
    """
    return tuple(
        RegisteredTool(
            tool,
            ArgumentSchema(tool.name, tool.parameters),
            plugin.source,
            owner,
            labels | labels_of(tool) if plugin.is_foreign else labels,
        )
        for tool in plugin.tools
    )


def labels_of(tool: Tool) -> frozenset[str]:
    """Return the label of a tool's results: none for a trusted tool, else "tool:NAME"."""
    return frozenset() if tool.trusted else frozenset({f"tool:{tool.name}"})


class ToolRegistry:
    """The tools that a kernel offers, by owner, name and version."""

    def __init__(self) -> None:
        self._plugins: dict[
            tuple[str | None, str], tuple[RegisteredTool, ...]
        ] = {}  # by owner and key
        self._by_name: dict[
            tuple[str | None, str], dict[str, RegisteredTool]
        ] = {}  # by owner, name; version

    def __repr__(self) -> str:
        return f"<ToolRegistry: {sum(1 for _ in self)} tools of {len(self._plugins)} plug-ins>"

    def __iter__(self) -> Iterator[RegisteredTool]:
        for registered_tools in self._plugins.values():
            yield from registered_tools

    def put(
        self, key: str, registered_tools: Sequence[RegisteredTool], owner: str | None = None
    ) -> None:
        """Offer tools, in place of those that `key` offered before.

        Raises:
            Conflict: another source offers one of them, or this one offers one twice. Nothing
                is changed then.
        """
        replaced = self._plugins.get((owner, key), ())
        ids = [registered.tool.id for registered in registered_tools]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise Conflict(f"{registered_tools[0].source} offers {twice} twice")
        for registered in registered_tools:
            known = self._by_name.get((owner, registered.tool.name), {}).get(
                registered.tool.version
            )
            if known is not None and known not in replaced:
                refusal = Conflict(
                    f"tool {registered.tool.id!r} is offered by {known.source} and by "
                    f"{registered.source}; unload one of them, or give it another version"
                )
                raise refusal.with_labels(known.labels)
        self._remove(replaced)
        self._plugins[owner, key] = tuple(registered_tools)
        for registered in registered_tools:
            versions = self._by_name.setdefault((owner, registered.tool.name), {})
            versions[registered.tool.version] = registered

    def resolve(self, name: str, identity: str | None = None) -> RegisteredTool:
        """Return the tool that a name ("calculator", "calculator@1") means for an agent.

        Raises:
            NoSuchObject: there is none; names similar ones.
        """
        bare, _, version = name.partition("@")
        for owner in dict.fromkeys((identity, None)):
            versions = self._by_name.get((owner, bare))
            if versions and not version:
                return self._newest(versions)
            if versions and version in versions:
                return versions[version]
        visible = self.visible(identity)
        known = [registered.tool.id if version else registered.tool.name for registered in visible]
        refusal = NoSuchObject("tool", name, dict.fromkeys(known))
        raise refusal.with_labels(labels_of_all(visible))

    def visible(self, identity: str | None) -> list[RegisteredTool]:
        """Return all tools that an agent can run, in the order of name and version."""
        found = [registered for registered in self if registered.owner in (None, identity)]
        return sorted(found, key=lambda one: (one.tool.name, one.tool.version_key))

    def is_newest(self, registered: RegisteredTool, identity: str | None) -> bool:
        """Return whether the bare name means this version, for an agent."""
        return self.resolve(registered.tool.name, identity) is registered

    def is_offered(self, queue_name: str) -> bool:
        """Return whether a tool with a queue of that name is still offered."""
        return any(registered.queue_name == queue_name for registered in self)

    def remove(self, name: str, owner: str | None = None) -> tuple[str, ...]:
        """Remove a tool, one version of it, or all tools of a key or source.

        Returns:
            The ids of the removed tools.

        Raises:
            NoSuchObject: nothing of that name is offered.
        """
        removed: list[str] = []
        for (holder, key), registered_tools in tuple(self._plugins.items()):
            if holder != owner:
                continue
            dropped = [
                registered
                for registered in registered_tools
                if name in (key, registered.source, registered.tool.name, registered.tool.id)
            ]
            left = tuple(registered for registered in registered_tools if registered not in dropped)
            self._remove(dropped)
            removed += [registered.tool.id for registered in dropped]
            if left:
                self._plugins[holder, key] = left
            else:
                del self._plugins[holder, key]
        if not removed:
            sources = {key for key in self.keys(owner) if not key.startswith("function ")}
            known = {registered.tool.id for registered in self if registered.owner == owner}
            refusal = NoSuchObject("tool or plug-in", name, known | sources)
            raise refusal.with_labels(self.labels_of_owner(owner))
        return tuple(removed)

    def labels_of_owner(self, owner: str | None) -> frozenset[str]:
        """Return the labels of all shared tools (None), or of an agent's private tools."""
        return labels_of_all([registered for registered in self if registered.owner == owner])

    def keys(self, owner: str | None = None) -> list[str]:
        """Return the keys of the loaded plug-ins of an owner."""
        return [key for holder, key in self._plugins if holder == owner]

    def forget(self, owner: str) -> None:
        """Remove the private tools of an exited agent."""
        for holder, key in tuple(self._plugins):
            if holder == owner:
                self._remove(self._plugins.pop((holder, key)))

    def _remove(self, registered_tools: Iterable[RegisteredTool]) -> None:
        for registered in registered_tools:
            versions = self._by_name[registered.owner, registered.tool.name]
            del versions[registered.tool.version]
            if not versions:
                del self._by_name[registered.owner, registered.tool.name]

    @staticmethod
    def _newest(versions: dict[str, RegisteredTool]) -> RegisteredTool:
        return max(versions.values(), key=lambda one: one.tool.version_key)
