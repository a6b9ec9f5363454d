"""What `aios doctor` finds out about kinds of cores and scheduling policies, ours and others'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from aios_core.cli.findings import Finding, Health
from aios_core.config import SchedulerConfig
from aios_core.config_decoder import Place
from aios_core.cores.factory import kind_of
from aios_core.errors import ConfigError
from aios_core.extensions import CORE_KINDS, POLICIES, Extension, Registry, how_to_fix
from aios_core.queueing.named_policy import build_policy


def check_extensions() -> Iterator[Finding]:
    """Try every kind of core and every scheduling policy that is registered."""
    yield from _check(CORE_KINDS, lambda name: kind_of(name, Place("kind", "")))
    yield from _check(POLICIES, lambda name: build_policy(name, SchedulerConfig()))


def _check(registry: Registry, use: Callable[[str], Any]) -> Iterator[Finding]:
    for extension in registry.extensions():
        facts = {"origin": extension.origin, "value": extension.value}
        if extension.package and extension.name in registry.built_in:
            message = f"{extension.origin}, and not used: the built-in one has that name"
            yield _finding(registry, extension, Health.WARNING, message, facts)
            continue
        try:
            use(extension.name)
        except ConfigError as exc:
            message = f"{extension.origin}, and cannot be used: allowed is {exc.allowed}"
            yield _finding(registry, extension, Health.ERROR, message, facts)
        else:
            yield Finding(registry.what, extension.name, Health.OK, extension.origin, facts=facts)


def _finding(
    registry: Registry, extension: Extension, health: Health, message: str, facts: dict[str, str]
) -> Finding:
    return Finding(registry.what, extension.name, health, message, how_to_fix(extension), facts)
