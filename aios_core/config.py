"""The configuration: one frozen tree, built and checked at the edge.

Values come, each over the one before, from the defaults below, from `aios.toml`,
from the environment (``AIOS_SCHEDULER__POLICY=fair``) and from arguments. A bad
key or value is refused with its name, what it was and what it may be, however the
tree was built. ``docs/reference/config.md`` is this file for its readers.

Only `KernelConfig.load` and `find_config_file` read anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypedDict, TypeVar, Unpack

from aios_core.budget import Budget, Price
from aios_core.config_decoder import Place, Range, decode, field_hints
from aios_core.config_sources import (
    OTHER_VARIABLES,
    find_config_file,
    keys_of,
    nested,
    read_config_file,
)
from aios_core.core_kinds import ANTHROPIC_URL, BUILT_IN
from aios_core.errors import ConfigError
from aios_core.extensions import CORE_KINDS, POLICIES
from aios_core.process import RunawayGuard
from aios_core.redaction import RedactedRepr, learn_environment

MIB = 1 << 20
Positive = Range(0, is_open=True)
AtLeastOne = Range(1)
Fraction = Range(0, 1, is_open=True)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Scheduling: the policy, its options, and the limits of queues and retries."""

    policy: str = "auto"  # built in, or a name that a package registers under `aios.policies`
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of that policy
    quantum: Annotated[int, AtLeastOne] | None = None  # tokens; None: the policy's own
    max_wait_s: Annotated[float, Positive] | None = None  # None: the policy's own
    # An agent between two calls keeps its place on a core that long; None: as measured.
    keep_warm_s: Annotated[float, Range(0)] | None = None
    max_waiting: Annotated[int, AtLeastOne] = 10_000
    max_waiting_per_agent: Annotated[int, AtLeastOne] = 1_000
    max_attempts: Annotated[int, AtLeastOne] = 4
    max_retry_s: Annotated[float, Positive] = 120.0
    core_wait_s: float = 10.0
    default_timeout_s: Annotated[float, Positive] | None = None
    expected_answer_tokens: Annotated[int, AtLeastOne] = 512  # reserved until answers are known

    def __post_init__(self) -> None:
        if isinstance(self.policy, str):  # else refused by the tree that it becomes a part of
            POLICIES.require(self.policy, Place("policy", ""))


@dataclass(frozen=True, slots=True)
class ContextConfig:
    """Where suspended generations and warm contexts are kept."""

    host_bytes: int = 2048 * MIB
    disk_bytes: int = 8192 * MIB
    directory: str | None = None  # None: a temporary one, removed on close
    watermark: Annotated[float, Fraction] = 0.9  # of KV memory; above it images are moved away


@dataclass(frozen=True, slots=True, repr=False)
class StateConfig(RedactedRepr):
    """Where memory, files, grants and the audit trail are kept. Opened when first needed."""

    directory: str | None = None  # None: $XDG_STATE_HOME/aios; ":memory:" keeps nothing
    encryption_key: str | None = None  # "env:NAME" or a file; None: not encrypted

    def __post_init__(self) -> None:
        if self.directory == "":
            raise ConfigError("directory", "", "a directory, ':memory:', or none at all")

    def path(self, environ: Mapping[str, str] | None = None) -> str:
        """The directory that is meant."""
        if self.directory is not None:
            return self.directory
        environ = os.environ if environ is None else environ
        return str(Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "aios")


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Memory of agents. Quotas bound what is stored; None: no limit."""

    page_bytes: Annotated[int, Range(64, MIB)] = 16_384
    resident_bytes: Annotated[int, AtLeastOne] = 4 * MIB  # of an agent's pages, in RAM
    total_resident_bytes: int = 1024 * MIB  # of all agents' pages
    watermark: Annotated[float, Fraction] = 0.8  # of resident_bytes; above it pages are evicted
    lru_k: Annotated[int, Range(1, 16)] = 2
    correlated_s: float = 0.1  # uses of a page within that time count as one
    retained_s: float = 200.0  # the history of an evicted page is kept that long
    quota_bytes: int | None = 256 * MIB  # of an agent
    group_quota_bytes: int | None = None  # of a group's agents together
    group_quotas: Mapping[str, int] = field(default_factory=dict)  # by group, over the one above
    agent_quotas: Mapping[str, int] = field(default_factory=dict)  # by identity, over quota_bytes


@dataclass(frozen=True, slots=True)
class StorageQuota:
    """Storage quota, old versions and deleted files included. None: no limit."""

    max_bytes: int | None = None
    max_files: int | None = None


@dataclass(frozen=True, slots=True)
class MountConfig:
    """A directory of the host that agents share as /mnt/NAME."""

    directory: str
    mode: Literal["read", "write"] = "read"


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """The files of agents."""

    max_file_bytes: Annotated[int, AtLeastOne] = 64 * MIB
    max_versions: Annotated[int, AtLeastOne] = 100  # of a file; the oldest go
    max_snapshots: int = 100  # of an agent's trees
    agent: StorageQuota = field(default_factory=lambda: StorageQuota(1024 * MIB, 100_000))  # each
    groups: Mapping[str, StorageQuota] = field(default_factory=dict)  # all of a group together
    mounts: Mapping[str, MountConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """The sandbox for code that agents write. Without a working backend, code is not run."""

    backend: Literal["auto", "bubblewrap"] = "auto"
    uid: Annotated[int, Range(1, 2**32 - 2)] | None = (
        65534  # the user that root drops to; 65534: `nobody`
    )
    gid: Annotated[int, Range(1, 2**32 - 2)] | None = None  # None: the same number
    python: str | None = None  # an interpreter; None: this one's, or the system's
    read_only: tuple[str, ...] = ()  # further paths of this machine that code may read
    packages: tuple[str, ...] = ()  # installed here, that code may import, with their requirements
    wall_s: Annotated[float, Positive] = 60.0  # of a run, or of a cell of a session
    cpu_s: Annotated[int, AtLeastOne] = 60  # of one process
    memory_bytes: Annotated[int, Range(64 * MIB)] = 1024 * MIB
    max_processes: Annotated[int, Range(4)] = 64
    max_open_files: Annotated[int, Range(16)] = 256
    disk_bytes: Annotated[int, AtLeastOne] = 256 * MIB
    max_files: Annotated[int, AtLeastOne] = 20_000
    output_bytes: Annotated[int, AtLeastOne] = 1 * MIB
    max_running: Annotated[int, AtLeastOne] = 16  # runs at once; others wait
    max_sessions: Annotated[int, AtLeastOne] = 32  # alive at once
    max_sessions_per_agent: int = 2
    max_session_s: Annotated[float, Positive] = 3600.0
    session_idle_s: Annotated[float, Positive] = 600.0


@dataclass(frozen=True, slots=True, repr=False)
class McpServerConfig(RedactedRepr):
    """An MCP server: a program to start, or a URL. A value "env:NAME" is that variable's."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(
        default_factory=dict
    )  # in addition to PATH, HOME and a few others
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False  # whether its annotations of tools are believed
    timeout_s: Annotated[float, Positive] = 30.0  # to connect

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ConfigError("command", self.command, "given, unless there is a url")


@dataclass(frozen=True, slots=True, repr=False)
class ToolsConfig(RedactedRepr):
    """Which tools there are, and how they run."""

    plugins: tuple[str, ...] | None = None  # installed ones, by name; None: all
    load: tuple[str, ...] = ()  # modules, and paths of files
    mcp: Mapping[str, McpServerConfig] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by tool
    timeout_s: Annotated[float, Positive] = 60.0  # of one attempt, unless the tool sets its own;
    # of a tool that runs code a little more than sandbox.wall_s, if that is longer
    load_timeout_s: Annotated[float, Positive] = 60.0  # of one plug-in, file, module or server
    max_running: Annotated[int, AtLeastOne] = 16
    max_running_per_agent: Annotated[int, AtLeastOne] = 8
    max_processes: Annotated[int, AtLeastOne] = 4
    max_waiting: Annotated[int, AtLeastOne] = 10_000
    max_waiting_per_agent: Annotated[int, AtLeastOne] = 1_000
    max_inline_bytes: int = 64 << 10  # larger results are stored, and handed over as a reference
    max_result_bytes: Annotated[int, AtLeastOne] = 64 * MIB
    max_stored_bytes: int = 256 * MIB  # of one agent's stored results; its oldest go first
    breaker_failures: int = 5  # in a row, until a tool is left alone; 0: never
    breaker_cooldown_s: Annotated[float, Positive] = 30.0
    max_retry_s: Annotated[float, Positive] = 120.0  # for the pauses that a tool asks for
    journal_days: Annotated[float, Positive] = 30.0  # outcomes are kept that long
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)


RightName = Literal["read", "write", "execute", "share"]


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Access: rules, approvals and the audit trail."""

    policy: str | None = None  # a file of rules; None: owners, parents and grants alone
    parent_rights: tuple[RightName, ...] = ("read",)  # rights over what descendants own
    unowned_rights: tuple[RightName, ...] = ("read", "write", "execute")  # over unowned resources
    confirm_own_irreversible: bool = (
        False  # before they clear their own memory, or purge their own files
    )
    approver: Literal["auto", "terminal", "queue", "allow", "deny"] = "auto"
    approval_timeout_s: Annotated[float, Positive] = 600.0
    audit: Literal["effects", "all", "off"] = "effects"
    audit_arguments: bool = False  # False: their SHA-256
    audit_anchor: str | None = None  # a second place for the head of the trail
    audit_days: Annotated[float, Positive] | None = 90.0  # older records go to files; None: never


@dataclass(frozen=True, slots=True, repr=False)
class EmbeddingConfig(RedactedRepr):
    """The embedder, which turns texts into vectors. `kind` decides which other keys apply."""

    kind: Literal["hashing", "transformers", "openai"] = "hashing"
    path: str | None = None  # transformers: a sentence-transformer directory
    base_url: str | None = None  # openai; None: OpenAI itself
    api_key_env: str | None = None  # openai: the environment variable that holds the key
    model: str | None = None  # openai: the endpoint's; transformers: the name it is priced under
    dimensions: Annotated[int, Range(8)] | None = None  # hashing, openai; None: 1024, the model's
    batch_size: Annotated[int, AtLeastOne] | None = None  # texts; None: 32, openai 128

    def __post_init__(self) -> None:
        needs, takes = _EMBEDDING_KEYS.get(self.kind, ((), None))
        if takes is None:
            return  # refused by the tree that it becomes a part of
        for key in needs:
            if not getattr(self, key):
                raise ConfigError(key, getattr(self, key), f"needed by kind {self.kind!r}")
        for key in ("path", "base_url", "api_key_env", "model", "dimensions", "batch_size"):
            if key not in (*needs, *takes) and getattr(self, key) is not None:
                raise ConfigError(key, getattr(self, key), f"not given for kind {self.kind!r}")


# kind -> the keys it needs, and the optional ones
_EMBEDDING_KEYS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "hashing": ((), ("dimensions",)),
    "transformers": (("path",), ("model", "batch_size")),
    "openai": (("model",), ("base_url", "api_key_env", "dimensions", "batch_size")),
}


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """Search by meaning: the vector index, and how files are chunked for it."""

    index: Literal["auto", "exact", "chroma"] = "auto"  # auto: exact while vectors are few
    chroma_url: str | None = None  # of a Chroma server; None: embedded, below state.directory
    chunk_chars: Annotated[int, Range(100)] = 1_000
    overlap_chars: int = 150  # that a chunk repeats of the one before
    max_file_chars: Annotated[int, AtLeastOne] = 4_000_000  # what lies behind is not found
    max_collection_bytes: int | None = 1024 * MIB  # of each agent's collections; None: no limit

    def __post_init__(self) -> None:
        overlap, chunk = self.overlap_chars, self.chunk_chars
        if isinstance(overlap, int) and isinstance(chunk, int) and overlap > chunk // 2:
            allowed = f"at most {chunk // 2}, which is half of chunk_chars"
            raise ConfigError("overlap_chars", overlap, allowed)
        if self.chroma_url is not None and self.index == "exact":
            raise ConfigError("chroma_url", self.chroma_url, "not given for index 'exact'")


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """A privilege group."""

    weight: Annotated[float, Positive] = 1.0
    budget: Budget = field(default_factory=Budget)
    inherits: tuple[str, ...] = ()  # groups; its members have their privileges too


@dataclass(frozen=True, slots=True, repr=False)
class CoreConfig(RedactedRepr):
    """One LLM core. `kind` decides which of the others apply; `options` go to its constructor."""

    kind: str  # built in, or a name that a package registers under `aios.cores`
    name: str | None = None  # None: the kind, numbered if necessary
    models: tuple[str, ...] = ()  # names under which agents ask for it; (): the path's last part
    path: str | None = None  # of a model: a directory or a hub name; replay: the recording
    base_url: str | None = None  # openai; None: OpenAI itself
    api_key_env: str | None = None  # openai: the environment variable that holds the key
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (kind := BUILT_IN.get(self.kind)) is not None:
            kind.require_keys(self.kind, self)
        else:  # its own declaration is read when a core is built, since that imports its package
            CORE_KINDS.require(self.kind, Place("kind", ""))


Table = Mapping[str, Any]  # a section as plain data, laid over what is there


class ConfigOptions(TypedDict, total=False):
    """The keyword arguments of `KernelConfig.load`: its fields, sections also as plain mappings."""

    cores: Sequence[CoreConfig | Table]
    default_model: str | None
    fallbacks: Mapping[str, Sequence[str]]
    prices: Mapping[str, Price | Table]
    groups: Mapping[str, GroupConfig | Table]
    scheduler: SchedulerConfig | Table
    context: ContextConfig | Table
    state: StateConfig | Table
    memory: MemoryConfig | Table
    storage: StorageConfig | Table
    tools: ToolsConfig | Table
    access: AccessConfig | Table
    embedding: EmbeddingConfig | Table
    retrieval: RetrievalConfig | Table
    guard: RunawayGuard | Table
    trace: str | None
    drain_s: float


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """The whole configuration of a kernel.

    Sections may also be given as plain mappings. Raises `ConfigError`.
    """

    cores: tuple[CoreConfig, ...] = ()  # none: the bundled model
    default_model: str | None = None  # None: the first core's first model
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)  # by model
    groups: Mapping[str, GroupConfig] = field(default_factory=dict)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    state: StateConfig = field(default_factory=StateConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    guard: RunawayGuard = field(default_factory=RunawayGuard)
    trace: str | None = None  # a file for https://ui.perfetto.dev; None: no trace is written
    drain_s: float = 5.0  # seconds that `close()` waits for calls in flight

    if TYPE_CHECKING:  # the generated one would refuse sections that are plain mappings

        def __init__(self, **options: Unpack[ConfigOptions]) -> None: ...

    def __post_init__(self) -> None:
        for name, hint in field_hints(type(self)).items():
            checked = decode(hint, getattr(self, name), Place(name, ""))
            object.__setattr__(self, name, checked)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **overrides: Unpack[ConfigOptions],
    ) -> Self:
        """Load the configuration: defaults, overridden by a file, the environment and arguments.

        Args:
            path: the file; None looks for one (`find_config_file`).
            environ: None for that of the process.
            overrides: values or nested mappings: ``load(scheduler={"policy": "fair"})``.

        Raises:
            ConfigError: a key or value is bad, or a file that was named is not there.
        """
        environ = os.environ if environ is None else environ
        learn_environment(environ)
        config = cls()
        for layer in _layers(cls, path, environ, mistakes=None):
            config = layer(config)
        checked: Self = decode(cls, overrides, Place("", "an argument"), config)
        return _without_stale_options(checked, config)

    @classmethod
    def load_leniently(
        cls, path: str | Path | None = None, *, environ: Mapping[str, str] | None = None
    ) -> tuple[Self, list[ConfigError]]:
        """Load like `load`, but skip wrong entries. Returns the configuration and all mistakes."""
        environ = os.environ if environ is None else environ
        config, mistakes = cls(), list[ConfigError]()
        for layer in _layers(cls, path, environ, mistakes):
            try:
                config = layer(config)
            except ConfigError as exc:
                mistakes.append(exc)
        return config, mistakes


C = TypeVar("C", bound=KernelConfig)


def _layers(
    cls: type[C],
    path: str | Path | None,
    environ: Mapping[str, str],
    mistakes: list[ConfigError] | None,
) -> Iterator[Callable[[C], C]]:
    """Yield the layers over the defaults, in order. Each raises `ConfigError` when called.

    With a list of mistakes, those within the file are collected there.
    """
    of_file = cls()

    def file(config: C) -> C:
        nonlocal of_file
        if (found := find_config_file(path, environ=environ)) is None:
            return config
        checked: C = decode(
            cls, read_config_file(found), Place("", str(found), mistakes=mistakes), config
        )
        of_file = checked
        return checked

    def core(config: C) -> C:
        if only := _core_from_environment(environ):
            return replace(config, cores=(only,), default_model=None, fallbacks={})
        return config

    def variable(config: C, *, name: str) -> C:
        place = Place("", f"environment variable {name}", is_text=True)
        checked: C = decode(cls, nested(keys_of(name, environ, cls), environ[name]), place, config)
        return checked

    yield file
    yield core
    for name in sorted(environ):
        if name.startswith("AIOS_") and environ[name] and name not in OTHER_VARIABLES:
            yield partial(variable, name=name)
    yield lambda config: _without_stale_options(config, of_file)


def _without_stale_options(config: C, below: C) -> C:
    """Drop the options of the policy below where another policy was chosen over it alone."""
    new, old = config.scheduler, below.scheduler
    if new.policy == old.policy or new.options != old.options:
        return config
    return replace(config, scheduler=replace(new, options={}))


def _core_from_environment(environ: Mapping[str, str]) -> CoreConfig | None:
    """One line in a shell points at a real model, in place of all cores of the file."""
    model, base_url = environ.get("AIOS_MODEL", ""), environ.get("AIOS_BASE_URL", "")
    if base_url and not model:
        allowed = "the name of a model that AIOS_BASE_URL serves"
        raise ConfigError("AIOS_MODEL", model, allowed, "the environment")
    if base_url:
        key = "AIOS_API_KEY" if environ.get("AIOS_API_KEY") else None
        kind = "anthropic" if base_url.rstrip("/") == ANTHROPIC_URL else "openai"
        return CoreConfig(kind, models=(model,), base_url=base_url, api_key_env=key)
    if model == "tiny":
        return CoreConfig("tiny")
    return CoreConfig("transformers", path=model) if model else None
