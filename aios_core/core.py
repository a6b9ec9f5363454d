"""The contract of an LLM core, between the dispatcher and anything that generates.

A core runs several sequences at once. The dispatcher passes it a `Run` and receives
reports through a `ReportSink`; every run ends in exactly one of `Finished`,
`Preempted`, `Failed` and `Stopped`, and nothing is reported of it afterwards.
`run`, `preempt` and `cancel` are called on the kernel's loop, return at once and
never raise; `preempt` and `cancel` of an unknown run are ignored, since the run
may have ended on its own meanwhile. The sink may be called from any thread.

A core states its limits in its `Capabilities`, and the scheduler adapts.
Implementations are in `aios_core.cores`; `aios_core.testing.core_contract` is the suite
that each of them passes. `StreamingCore` there turns an async generator into a
core, which is all that most remote backends need.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Final, Protocol

from aios_core.errors import KernelError
from aios_core.messages import Completion, Delta, Usage
from aios_core.snapshot import KVImage, Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.third_party import RAISED, log_raised, pass_on

log = logging.getLogger(__name__)


TEXT_ONLY: Final = frozenset({"text"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of a core, as stated by the core itself."""

    context_window: int  # tokens of prompt and answer together
    preemptible: bool = False  # a running call can be stopped and returns a snapshot
    exact_resume: bool = False  # a resumed call gives the text of an uninterrupted one
    exact_recompute: bool = True  # ... also if its KV image was dropped and is computed again
    kv_snapshots: bool = False  # snapshots can hold a KV image
    tools: bool = True
    json_schema: bool = True  # answers can be constrained to a schema
    seed: bool = True  # the same seed gives the same answer
    parts: frozenset[str] | None = TEXT_ONLY  # kinds of content parts; None: the backend decides
    choices: bool = False  # several answers to one prompt in one run
    warm_contexts: bool = False  # `Run.warm` saves computing what two prompts have in common
    external: bool = False  # callers call a provider themselves, and report the end to the kernel
    notes: tuple[str, ...] = ()  # limits that a person should know of


@dataclass(frozen=True, slots=True)
class CoreLoad:
    """The load of a core. Cheap to read: the scheduler reads it before each decision."""

    slots: int  # sequences that may run at once
    num_running: int  # runs that the core has, those in the backend's own queue included
    num_ahead: int = 0  # runs accepted beyond `slots`, so that a slot is never idle between two
    kv_tokens: int = 0  # that hold KV memory; at remote engines those of running requests alone
    kv_capacity: int | None = None  # tokens of KV memory; None if unknown or unlimited
    prefill_rate: float | None = None  # prompt tokens per second, as measured; None if unknown
    # Counters of the engine since it started; 0 if it reports none.
    num_engine_preemptions: int = 0  # sequences that it took out of its KV memory
    prefix_queried_tokens: int = 0  # prompt tokens that it looked up in its prefix cache
    prefix_hit_tokens: int = 0  # those of them that it found there
    available_in_s: float = 0.0  # the backend accepts nothing before (429); 0 if it does now
    is_up: bool = True

    @property
    def has_slot(self) -> bool:
        """Whether the core accepts one more run now."""
        is_open = self.is_up and self.available_in_s <= 0
        return is_open and self.num_running < self.slots + self.num_ahead


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request made ready for a core, with its size."""

    num_tokens: int  # of the prompt; an upper bound if `is_exact` is false
    max_tokens: int  # that the answer may have, never more than the window leaves
    prompt_ids: tuple[int, ...] = ()  # empty if the core does not tokenise
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The size of a prompt in tokens, and the context window of the core that would get it."""

    num_tokens: int  # an estimate if `is_exact` is false
    context_window: int  # tokens of prompt and answer together
    is_exact: bool = True

    @property
    def num_left(self) -> int:
        """Tokens that are left for the answer; below 0 if the prompt does not fit."""
        return self.context_window - self.num_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of a syscall on a core: from its start, or from a snapshot."""

    id: int  # of the syscall; a core never has two runs of one syscall
    pid: int
    request: LLMGenerate
    prepared: Prepared
    snapshot: Snapshot | None = None  # continue from here; the core takes over its KV image
    warm: Snapshot | None = None  # context of the agent's last call; its KV image is taken over too
    priority: int = 0
    wants_deltas: bool = True  # false: no caller streams, `Progress` may come without text
    # Tokens that each answer may have, earlier runs included, if the caller or a budget limits
    # it. The core passes it to its backend; the kernel ends the run there in any case.
    token_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A run generated `num_tokens` more tokens. `delta` may be empty."""

    run_id: int
    num_tokens: int
    delta: Delta


@dataclass(frozen=True, slots=True)
class Finished:
    """A run has its answer."""

    run_id: int
    completion: Completion
    context: Snapshot | None = None  # with a KV image, for the agent's next call


@dataclass(frozen=True, slots=True)
class Preempted:
    """A run was stopped on request and can be resumed from the snapshot."""

    run_id: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Failed:
    """A run cannot be completed. `usage` is what it used nevertheless.

    `snapshot` holds all that the run has reported, without a KV image, if its answer can be
    continued from there as exactly as after a preemption.
    """

    run_id: int
    error: KernelError
    usage: Usage = field(default_factory=Usage)
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """A cancelled run has released everything."""

    run_id: int
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class CoreDown:
    """The core itself died. It has reported `Failed` for each of its runs already."""

    error: KernelError


@dataclass(frozen=True, slots=True)
class LoadChanged:
    """The core has room again, or is up again, without any run having ended."""


@dataclass(frozen=True, slots=True)
class Starting:
    """The core is about to serve, but not yet: loading a model may take minutes."""

    stage: str  # as a person reads it, such as "loading the weights"


Report = Progress | Finished | Preempted | Failed | Stopped | CoreDown | LoadChanged | Starting
ReportSink = Callable[[Sequence[Report]], None]


class Core(Protocol):
    """The contract of an LLM core: it generates answers, in runs that report their progress."""

    @property
    def name(self) -> str:
        """Unique in a pool."""

    @property
    def models(self) -> Sequence[str]:
        """The model names that this core serves; the first is its default."""

    @property
    def capabilities(self) -> Capabilities:
        """Valid once `start` has returned."""

    async def start(self, sink: ReportSink) -> None:
        """Load the model or reach the endpoint. Called again after a `CoreDown`.

        Raises `BackendError` if the core cannot serve.
        """

    def prepare(self, request: LLMGenerate) -> Prepared | Awaitable[Prepared]:
        """Count the tokens of a request. May return an awaitable, if counting is slow.

        Raises `InvalidRequest` (`ContextOverflow`, tools that the core cannot offer ...).
        """

    def run(self, run: Run) -> None:
        """Start a run, or continue from its snapshot."""

    def preempt(self, run_id: int) -> None:
        """Stop a run at its next token: `Preempted`, or its end if that comes first."""

    def cancel(self, run_id: int) -> None:
        """Drop a run and free what it holds: `Stopped`, or its end if that comes first."""

    def load(self) -> CoreLoad:
        """Return the current load of the core."""

    def open_image(self, path: Path) -> KVImage:
        """Open a KV image that this core, or an equal one, wrote to `path`.

        Blocks while it reads the file's header. Raises `SnapshotError` if the file is damaged or
        of another model, or if this core takes no images.
        """

    async def close(self) -> None:
        """Drop all runs and free everything. Idempotent."""


async def count_prompt(core: Core, request: LLMGenerate) -> int | None:
    """Return how many tokens a prompt has, if the core can count them; else None.

    A core with a `prepare` that only bounds a prompt may have a method `count_prompt` like this.
    """
    counting: Callable[[LLMGenerate], Awaitable[int | None]] | None
    counting = getattr(core, "count_prompt", None)
    return None if counting is None else await counting(request)


def can_continue(core: Core, snapshot: Snapshot) -> bool:
    """Return whether a core can continue an answer from a snapshot that another core may have made.

    A core may have a method `can_continue` like this, which compares the snapshot's model with
    its own. Without it, every preemptible core is expected to continue the snapshots of its model.
    """
    try:
        check: Callable[[Snapshot], bool] | None = getattr(core, "can_continue", None)
        return core.capabilities.preemptible if check is None else check(snapshot)
    except RAISED as exc:  # a third-party core, or one that is down
        pass_on(exc)
        return False


NO_ROOM: Final = CoreLoad(slots=1, num_running=1, is_up=False)


def load_of(core: Core) -> CoreLoad:
    """Return the load of a core; a core that fails to report it counts as full."""
    try:
        load = core.load()
        if isfinite(load.available_in_s) and load.slots > 0:
            return load
        return replace(load, available_in_s=0.0) if load.slots > 0 else NO_ROOM
    except RAISED as exc:  # a third-party core; the other cores continue
        pass_on(exc)
        log_raised(log, exc, "core %r failed to report its load", core.name)
        return NO_ROOM
