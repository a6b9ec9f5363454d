"""Which tools there are, and who offers them. Bookkeeping only, on the kernel's loop.

A plug-in offers its tools all at once, and what it offered before is replaced in the
same step: nobody sees half of a reload. Several versions of a tool stand side by
side; the bare name is the newest. An agent's own tools go before everybody's.

Promise: no tool of a name and version is offered twice to the same agent; a second
offer is refused with both sources named, and nothing has changed then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aios_core.errors import Conflict, NoSuchObject
from aios_core.manager import labels_of_all
from aios_core.tools.tool import Tool
from aios_core.tools.validation import ArgumentSchema


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A tool, and where it comes from."""

    tool: Tool
    schema: ArgumentSchema
    source: str  # for people: "plug-in calculator of aios-plugins 0.1.0"
    owner: str | None = None  # the identity of the agent whose own it is
    labels: frozenset[str] = frozenset()  # where its name and its description come from

    @property
    def lane(self) -> str:
        """The name of what limits its calls."""
        return f"{self.owner or ''}:{self.tool.id}"


@dataclass(frozen=True, slots=True)
class Plugin:
    """What one source offers. `key` names it: loading the same key again is a reload."""

    key: str
    source: str
    tools: tuple[Tool, ...]
    release: Callable[[], object] | None = None  # called once it is offered no more; quick
    is_foreign: bool = False  # somebody outside names and describes its tools, untrusted


def offers_of(
    plugin: Plugin, owner: str | None = None, labels: frozenset[str] = frozenset()
) -> tuple[Offer, ...]:
    """Compile the schemas; may take time. Raises `InvalidRequest` for a bad one.

    `labels` are those of the agent that offers them. What an outsider says of its tools is its
    word as much as what they return.
    """
    return tuple(
        Offer(
            tool,
            ArgumentSchema(tool.name, tool.parameters),
            plugin.source,
            owner,
            labels | labels_of(tool) if plugin.is_foreign else labels,
        )
        for tool in plugin.tools
    )


def labels_of(tool: Tool) -> frozenset[str]:
    """Where what a tool returns comes from."""
    return frozenset() if tool.trusted else frozenset({f"tool:{tool.name}"})


class ToolRegistry:
    """See the module."""

    def __init__(self) -> None:
        self._plugins: dict[tuple[str | None, str], tuple[Offer, ...]] = {}  # by owner and key
        self._offers: dict[tuple[str | None, str], dict[str, Offer]] = {}  # by owner, name; version

    def __repr__(self) -> str:
        return f"<ToolRegistry: {sum(1 for _ in self)} tools of {len(self._plugins)} plug-ins>"

    def __iter__(self) -> Iterator[Offer]:
        for offers in self._plugins.values():
            yield from offers

    def put(self, key: str, offers: Sequence[Offer], owner: str | None = None) -> None:
        """Offer these tools instead of what `key` offered before.

        Raises `Conflict` if another source offers one of them, or this one two of the same;
        nothing has changed then.
        """
        replaced = self._plugins.get((owner, key), ())
        ids = [offer.tool.id for offer in offers]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise Conflict(f"{offers[0].source} offers {twice} twice")
        for offer in offers:
            known = self._offers.get((owner, offer.tool.name), {}).get(offer.tool.version)
            if known is not None and known not in replaced:
                refusal = Conflict(
                    f"tool {offer.tool.id!r} is offered by {known.source} and by {offer.source}; "
                    "unload one of them, or give it another version"
                )
                raise refusal.with_labels(known.labels)
        self._remove(replaced)
        self._plugins[owner, key] = tuple(offers)
        for offer in offers:
            versions = self._offers.setdefault((owner, offer.tool.name), {})
            versions[offer.tool.version] = offer

    def resolve(self, name: str, identity: str | None = None) -> Offer:
        """The tool of that name, or of that name and version, for that agent.

        Raises `NoSuchObject`, which names those that there are.
        """
        bare, _, version = name.partition("@")
        for owner in dict.fromkeys((identity, None)):
            versions = self._offers.get((owner, bare))
            if versions and not version:
                return self._newest(versions)
            if versions and version in versions:
                return versions[version]
        visible = self.visible(identity)
        known = [offer.tool.id if version else offer.tool.name for offer in visible]
        refusal = NoSuchObject("tool", name, dict.fromkeys(known))
        raise refusal.with_labels(labels_of_all(visible))

    def visible(self, identity: str | None) -> list[Offer]:
        """All that an agent may name, by name and version."""
        found = [offer for offer in self if offer.owner in (None, identity)]
        return sorted(found, key=lambda one: (one.tool.name, one.tool.version_key))

    def is_newest(self, offer: Offer, identity: str | None) -> bool:
        """Return whether the bare name stands for this one."""
        return self.resolve(offer.tool.name, identity) is offer

    def is_offered(self, lane: str) -> bool:
        """Return whether a tool with that lane is offered still."""
        return any(offer.lane == lane for offer in self)

    def remove(self, name: str, owner: str | None = None) -> tuple[str, ...]:
        """Take away what a key or source offers, or a tool, or one version; the ids.

        Raises `NoSuchObject`.
        """
        removed: list[str] = []
        for (whose, key), offers in tuple(self._plugins.items()):
            if whose != owner:
                continue
            gone = [
                offer
                for offer in offers
                if name in (key, offer.source, offer.tool.name, offer.tool.id)
            ]
            left = tuple(offer for offer in offers if offer not in gone)
            self._remove(gone)
            removed += [offer.tool.id for offer in gone]
            if left:
                self._plugins[whose, key] = left
            else:
                del self._plugins[whose, key]
        if not removed:
            sources = {key for key in self.keys(owner) if not key.startswith("function ")}
            known = {offer.tool.id for offer in self if offer.owner == owner}
            refusal = NoSuchObject("tool or plug-in", name, known | sources)
            raise refusal.with_labels(self.labels_of_owner(owner))
        return tuple(removed)

    def labels_of_owner(self, owner: str | None) -> frozenset[str]:
        """Where the names of all that is offered to everybody, or to one agent alone, come from."""
        return labels_of_all([offer for offer in self if offer.owner == owner])

    def keys(self, owner: str | None = None) -> list[str]:
        """The keys of what is loaded."""
        return [key for whose, key in self._plugins if whose == owner]

    def forget(self, owner: str) -> None:
        """An agent exited: its own tools go."""
        for whose, key in tuple(self._plugins):
            if whose == owner:
                self._remove(self._plugins.pop((whose, key)))

    def _remove(self, offers: Iterable[Offer]) -> None:
        for offer in offers:
            versions = self._offers[offer.owner, offer.tool.name]
            del versions[offer.tool.version]
            if not versions:
                del self._offers[offer.owner, offer.tool.name]

    @staticmethod
    def _newest(versions: dict[str, Offer]) -> Offer:
        return max(versions.values(), key=lambda one: one.tool.version_key)
