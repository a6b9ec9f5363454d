"""Which agent a call belongs to, found without the user's help.

In this order: the agent that is named (in the run's config, then on the model),
LangGraph's `thread_id`, the root run (one `invoke` of a graph or chain with all
that it starts, sub-agents and tools included), and for a call outside any run
the asyncio task or the thread that makes it. `aios_core.adapting.callers` says how
long each one's agent lives.

A run knows only its parent, so `RunTracker`, a callback handler that LangChain
adds to every run of the process, keeps who descends from whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.tracers.context import register_configure_hook

from aios_core.adapting import (
    AgentDirectory,
    AgentSettings,
    Caller,
    CallerKind,
    Root,
    RunTree,
    current_caller,
)

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None


class RunTracker(RunTree, BaseCallbackHandler):
    """The tree of LangChain's runs in this process."""

    run_inline = True  # a look into a dictionary; no thread is worth it

    @contextmanager
    def during(self, run_manager: RunManager) -> Iterator[None]:
        """For the call of a run. LangChain does not tell that it was cancelled; this does."""
        try:
            yield
        except asyncio.CancelledError:
            if run_manager:
                self.end(run_manager.run_id)
            raise

    # LangChain's side: one method for each kind of run and each way to end.

    def on_chain_start(
        self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        """A run of any kind begins."""
        self.begin(run_id, parent_run_id, more.get("name"))

    on_tool_start = on_retriever_start = on_llm_start = on_chat_model_start = on_chain_start

    def on_chain_end(self, *_: Any, run_id: UUID, **_more: Any) -> None:
        """A run of any kind ends, in whatever way."""
        self.end(run_id)

    on_tool_end = on_retriever_end = on_llm_end = on_chain_end
    on_chain_error = on_tool_error = on_retriever_error = on_llm_error = on_chain_end


def identify(
    tracker: RunTracker,
    name: str | None,
    defaults: AgentSettings,
    run_manager: RunManager,
    told: Mapping[str, Any] | None = None,
) -> tuple[Caller, AgentSettings]:
    """Whose call this is, and what its agent shall be like.

    Args:
        tracker: knows the runs.
        name: of the agent, as the model was told; None if it was not.
        defaults: as the model was told; the run's config goes before them.
        run_manager: of the call; None outside LangChain's own entry points, and for streams.
        told: by the call's own config, where the run manager does not know it.

    Raises:
        InvalidRequest: an `aios_...` key of the config has a bad value.
    """
    config = {**_config_of(run_manager), **(told or {})}
    settings = defaults.updated(config, "aios_")
    if named := config.get("aios_agent") or name:
        return Caller.named(str(named), settings.group), settings
    if thread_id := config.get("thread_id"):
        name = f"thread {thread_id}"
        return Caller(CallerKind.CONVERSATION, str(thread_id), name), settings
    run_id = run_manager.run_id if run_manager else None
    root = tracker.root_of(run_id) if run_id else None
    if root is not None and root.run_id != run_id:
        return _of_root(root), settings
    # LangChain makes an asynchronous call in a task of its own, and those of a batch on a pool's
    # threads; the tracker saw whose the first is, and `batching` the others.
    return _batched.get() or (root.caller if root else current_caller()), settings


@contextmanager
def batching() -> Iterator[None]:
    """Calls that begin in the block and belong to no run are those of whoever entered it."""
    token = _batched.set(_batched.get() or current_caller())
    try:
        yield
    finally:
        _batched.reset(token)


def in_batch() -> Context:
    """The same for what is run in this context, step by step."""
    context = copy_context()
    context.run(_batched.set, _batched.get() or current_caller())
    return context


def told_by(config: RunnableConfig | None) -> dict[str, Any]:
    """What a config that a model is called with directly says of the agent."""
    told = {**((config or {}).get("configurable") or {}), **((config or {}).get("metadata") or {})}
    return {key: told[key] for key in told if key == "thread_id" or key.startswith("aios_")}


def with_metadata(config: RunnableConfig | None) -> RunnableConfig | None:
    """The same config with that in its metadata, which is all that a model's call is told."""
    told = told_by(config)
    if config is None or not told:
        return config
    return {**config, "metadata": {**(config.get("metadata") or {}), **told}}


def identify_running(name: str | None, defaults: AgentSettings) -> tuple[Caller, AgentSettings]:
    """The same for what runs within a run without one of its own, such as a tool's body."""
    config = _config_of(None)
    settings = defaults.updated(config, "aios_")
    if named := config.get("aios_agent") or name:
        return Caller.named(str(named), settings.group), settings
    if thread_id := config.get("thread_id"):
        return Caller(CallerKind.CONVERSATION, str(thread_id), f"thread {thread_id}"), settings
    parent_id = getattr(ensure_config().get("callbacks"), "parent_run_id", None)
    root = tracker.root_of(parent_id) if parent_id else None
    return _of_root(root) if root else current_caller(), settings


def _config_of(run_manager: RunManager) -> dict[str, Any]:
    """Metadata and configurable of the run; the call's own metadata goes first."""
    around = ensure_config()
    inner = run_manager.metadata if run_manager else {}
    return {**around["configurable"], **around["metadata"], **inner}


def _of_root(root: Root) -> Caller:
    return Caller(CallerKind.RUN, root.run_id, f"{root.name}-{str(root.run_id)[-6:]}")


# --- of this process ---------------------------------------------------------------------------


def _end_of(root: Root) -> None:
    directory.end(_of_root(root))


def _is_live(caller: Caller) -> bool:
    return isinstance(caller.key, UUID) and tracker.is_live(caller.key)


tracker: Final[RunTracker] = RunTracker(_end_of)
_batched: ContextVar[Caller | None] = ContextVar("aios_batch", default=None)
directory: Final[AgentDirectory] = AgentDirectory(is_live=_is_live)
_tracking: ContextVar[RunTracker | None] = ContextVar("aios_runs", default=tracker)
register_configure_hook(_tracking, inheritable=True)
