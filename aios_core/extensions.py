"""Find what packages add by name: kinds of cores and scheduling policies, by entry point.

A registry knows its built-in names without reading anything. Further names come from the metadata
of installed packages, read when one is asked for; a package's module is imported only when its
name is used. Built-in names cannot be replaced, and a package that is broken breaks only its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from aios_core.config_decoder import Place
from aios_core.suggestions import suggest
from aios_core.untrusted.third_party import RAISED, describe_on_worker, pass_on


@dataclass(frozen=True, slots=True)
class Extension:
    """One registered name: what it stands for, and who brings it."""

    name: str
    value: str  # "module:attribute"
    package: str = ""  # the distribution that brings it; empty: built in

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        return f"from {self.package}" if self.package else "built in"

    def load(self) -> Any:
        """Import it. Raises all that its module raises."""
        module, _, attribute = self.value.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True, slots=True)
class Registry:
    """The names of one kind of extension: the built-in ones, and those of an entry-point group."""

    group: str  # of entry points, such as "aios.policies"
    what: str  # one of its names, for messages
    built_in: Mapping[str, str]  # name -> "module:attribute"

    def extensions(self) -> list[Extension]:
        """All of them, built-in ones first, also those that cannot be used."""
        built_in = [Extension(name, value) for name, value in self.built_in.items()]
        found = {_extension_of(entry) for entry in entry_points(group=self.group)}
        ours = {(one.name, one.value) for one in built_in}
        others = [one for one in found if (one.name, one.value) not in ours]
        return built_in + sorted(others, key=lambda one: (one.name, one.package, one.value))

    def names(self) -> list[str]:
        """Every name that can be used."""
        return list(dict.fromkeys(one.name for one in self.extensions()))

    def has(self, name: str) -> bool:
        """Return whether a name is known. Reads metadata only if it is not built in."""
        return name in self.built_in or name in self.names()

    def require(self, name: str, place: Place) -> None:
        """Raise `ConfigError` unless the name is known; it names those that are."""
        if self.has(name):
            return
        names = self.names()
        hint = f"; {found}" if (found := suggest(name, names)) else ""
        raise place.refuse(
            name,
            f"one of {', '.join(map(repr, names))}{hint}; others come with packages that register "
            f"them as entry points of {self.group!r}: install the one that brings it",
        )

    def load(self, name: str, place: Place) -> Any:
        """Import what a name stands for. Raises `ConfigError` that names the package at fault."""
        self.require(name, place)
        if name in self.built_in:
            return Extension(name, self.built_in[name]).load()
        (extension, *others) = [one for one in self.extensions() if one.name == name]
        if others:
            brought = " and ".join(one.package for one in (extension, *others))
            raise place.refuse(
                name, f"a {self.what} of one package; {brought} both bring it, uninstall one"
            )
        try:
            return extension.load()
        except RAISED as exc:
            pass_on(exc)
            why = f"that {extension.origin} cannot be loaded ({describe_on_worker(exc)})"
            allowed = f"a {self.what} that works; {why}. {how_to_fix(extension)}"
            raise place.refuse(name, allowed) from exc


def how_to_fix(extension: Extension) -> str:
    """Return the commands that may help where a package's extension does not work."""
    owner = extension.package.partition(" ")[0]
    return f"pip install --upgrade {owner}, or pip uninstall {owner}"


def _extension_of(entry: EntryPoint) -> Extension:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
    return Extension(entry.name, entry.value, package)


CORE_KINDS: Final = Registry(
    "aios.cores",
    "kind of core",
    {
        "transformers": "aios_core.core_kinds:TRANSFORMERS",
        "anthropic": "aios_core.core_kinds:ANTHROPIC",
        "vllm": "aios_core.core_kinds:VLLM",
        "openai": "aios_core.core_kinds:OPENAI",
        "replay": "aios_core.core_kinds:REPLAY",
        "tiny": "aios_core.core_kinds:TINY",
    },
)

POLICIES: Final = Registry(
    "aios.policies",
    "scheduling policy",
    {
        "fifo": "aios_core.queueing.policy:FIFO",
        "round_robin": "aios_core.queueing.policy:RoundRobin",
        "priority": "aios_core.queueing.policy:Priority",
        "fair": "aios_core.queueing.policy:Fair",
        "las": "aios_core.queueing.policy:LAS",
        "auto": "aios_core.queueing.policy:Auto",
    },
)
