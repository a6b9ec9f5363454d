"""The configuration: one frozen tree, built and checked at the edge.

Values come, each over the one before, from the defaults below, from `aios.toml`,
from the environment (``AIOS_SCHEDULER__POLICY=fair``) and from arguments. A bad
key or value is refused with its name, what it was and what it may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aios_core.budget import Budget, Price
from aios_core.process import Guard

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Who runs when."""

    policy: str = "auto"  # a key of aios_core.scheduler.POLICIES
    quantum: int | None = None  # tokens; None: the policy's own
    max_wait_s: float | None = None  # None: the policy's own
    keep_warm_s: float = 5.0  # an agent between two calls keeps its place on a core that long
    max_waiting: int = 10_000
    max_waiting_per_agent: int = 1_000
    max_attempts: int = 4
    core_patience_s: float = 10.0
    default_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ContextConfig:
    """Where suspended generations and warm contexts are kept."""

    host_bytes: int = 2048 * MIB
    disk_bytes: int = 8192 * MIB
    directory: str | None = None  # None: a temporary one, removed on close
    watermark: float = 0.9  # of a core's KV memory; above it images are moved away


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """A privilege group."""

    weight: float = 1.0
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """One LLM core. `kind` decides which of the others apply; `options` go to its constructor."""

    kind: str  # "transformers", "openai" or "replay"
    name: str | None = None  # None: the kind, numbered if need be
    models: tuple[str, ...] = ()  # names under which agents ask for it
    path: str | None = None  # transformers: a directory or a hub name; replay: the recording
    base_url: str | None = None  # openai
    api_key_env: str | None = None  # openai: the environment variable that holds the key
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Everything that a kernel can be told."""

    cores: tuple[CoreConfig, ...] = ()  # none: the tiny model that comes with the project
    default_model: str | None = None  # None: the first core's first model
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)  # by model
    groups: Mapping[str, GroupConfig] = field(default_factory=dict)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    guard: Guard = field(default_factory=Guard)
    drain_s: float = 5.0  # `close()` gives calls under way that long to end
