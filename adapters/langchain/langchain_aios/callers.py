"""Find the agent of a call without the user's help.

It is the first of: the agent that is named (in the run's config, then on the model);
the root run (one `invoke` or `stream` of a graph or chain with all that it starts,
sub-agents and tools included; a run inside of it with a `thread_id` of its own is
another root); for a call outside any run, the asyncio task or the thread that
makes it. `aios_adapters.callers` has the lifetime of each kind's agent.

A run has only its parent's id, so `RunTracker`, a callback handler that LangChain
adds to every run of the process, records the ancestors. It also records the model run
that started last in a context: LangChain does not pass a stream its own run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.tracers.context import register_configure_hook

from aios_adapters import (
    AgentDirectory,
    AgentRef,
    AgentSettings,
    Caller,
    CallerKind,
    RunRoot,
    RunTree,
    User,
    current_caller,
)
from aios_core import Agent, Kernel

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The run of one LLM call, with the metadata of its config."""

    run_id: UUID
    metadata: Mapping[str, Any]


class RunTracker(RunTree, BaseCallbackHandler):
    """The tree of LangChain's runs in this process."""

    run_inline = True  # updates a dictionary, which is faster than a thread switch

    def run_of(self, run_manager: RunManager) -> ModelRun | None:
        """Return the run in which a model is called.

        LangChain passes a stream no run manager, but reports its run right before, in the same
        context.
        """
        if run_manager:
            return ModelRun(run_manager.run_id, run_manager.metadata)
        latest = _latest.get()
        return latest if latest and self.is_live(latest.run_id) else None

    @contextmanager
    def during(self, run_manager: RunManager) -> Iterator[None]:
        """End the run of a call that is cancelled, since LangChain does not report that."""
        run = self.run_of(run_manager)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if run:
                self.end(run.run_id)
            raise

    # The callbacks of LangChain: one method for each kind of run and each way to end.

    def on_chain_start(
        self,
        *_: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Record that a run of any kind has started."""
        self.begin(run_id, parent_run_id, more.get("name"), (metadata or {}).get("thread_id"))

    on_tool_start = on_retriever_start = on_chain_start

    def on_chat_model_start(self, *about: Any, run_id: UUID, **more: Any) -> None:
        """Record that a model's run has started."""
        self.on_chain_start(*about, run_id=run_id, **more)
        _latest.set(ModelRun(run_id, more.get("metadata") or {}))

    on_llm_start = on_chat_model_start

    def on_chain_end(self, *_: Any, run_id: UUID, **_more: Any) -> None:
        """Record that a run of any kind has ended, with or without an error."""
        self.end(run_id)

    on_tool_end = on_retriever_end = on_llm_end = on_chain_end
    on_chain_error = on_tool_error = on_retriever_error = on_llm_error = on_chain_end


def find_caller(
    tracker: RunTracker, name: str | None, defaults: AgentSettings, run_manager: RunManager
) -> tuple[Caller, AgentSettings]:
    """Return the caller of an LLM call, and the settings of its agent.

    Args:
        tracker: the runs in progress.
        name: the agent's name in the model's arguments, if any.
        defaults: the settings in the model's arguments; the run's config overrides them.
        run_manager: the call's; None outside LangChain's own entry points, and for streams.

    Raises:
        InvalidRequest: an `aios_...` key of the config has a bad value.
    """
    run = tracker.run_of(run_manager)
    config = _config_of(run)
    settings = defaults.updated(config, "aios_")
    if named := config.get("aios_agent") or name:
        return Caller.named(str(named), settings.group), settings
    root = tracker.root_of(run.run_id) if run else _root_around()
    is_whole = root is not None and run is not None and root.run_id == run.run_id
    if found := _in_conversation(root, config.get("thread_id"), is_whole=is_whole):
        return found, settings
    # LangChain makes an asynchronous call in a new task, and the calls of a batch on a pool's
    # threads. The tracker has recorded the caller of the former, `batching` that of the latter.
    return _batched.get() or (root.caller if root else current_caller()), settings


def _in_conversation(root: RunRoot | None, thread_id: Any, *, is_whole: bool) -> Caller | None:
    """Return the caller for a root run; None if it is a single call without a conversation."""
    if root is not None and (thread_id or not is_whole):
        return _of_root(root, thread_id)
    if thread_id:
        return Caller(CallerKind.CONVERSATION, str(thread_id), f"thread {thread_id}")
    return None


def _root_around() -> RunRoot | None:
    """Return the root of the run around the calling code, unless it is a model's run."""
    parent_id = getattr(ensure_config().get("callbacks"), "parent_run_id", None)
    return tracker.root_of(parent_id) if parent_id else None


@contextmanager
def batching() -> Iterator[None]:
    """Attribute the calls in the block that belong to no run to the caller that entered it."""
    token = _batched.set(_batched.get() or current_caller())
    try:
        yield
    finally:
        _batched.reset(token)


def in_batch() -> Context:
    """Return a context in which calls that belong to no run are attributed to this caller."""
    context = copy_context()
    context.run(_batched.set, _batched.get() or current_caller())
    return context


def with_metadata(config: RunnableConfig | None) -> RunnableConfig | None:
    """Copy the agent's settings from a config's `configurable` to its metadata.

    LangChain passes only the metadata to a model's call.
    """
    given = (config or {}).get("configurable") or {}
    about = {key: given[key] for key in given if key == "thread_id" or key.startswith("aios_")}
    if config is None or not about:
        return config
    return {**config, "metadata": {**about, **(config.get("metadata") or {})}}


def find_running_caller(name: str | None, defaults: AgentSettings) -> tuple[Caller, AgentSettings]:
    """Return the caller of a call that has no run of its own, such as one in a tool's body."""
    config = _config_of(None)
    settings = defaults.updated(config, "aios_")
    if named := config.get("aios_agent") or name:
        return Caller.named(str(named), settings.group), settings
    found = _in_conversation(_root_around(), config.get("thread_id"), is_whole=False)
    return found or current_caller(), settings


def agent_ref(
    agent: str | Agent | None = None, group: str | None = None, kernel: Kernel | None = None
) -> AgentRef:
    """Refer to an agent that is given, named, or found from the run."""
    return AgentRef(directory, find_running_caller, agent, AgentSettings(group), kernel)


def ref_for_run(
    run_manager: RunManager,
    agent: str | Agent | None = None,
    settings: AgentSettings | None = None,
    kernel: Kernel | None = None,
) -> AgentRef:
    """Refer to the agent of a model's call.

    Args:
        run_manager: the call's; None outside LangChain's own entry points, and for streams.
        agent: an agent of the kernel, or a name; None to find it from the run.
        settings: the settings of an agent that is spawned; the run's config overrides them.
        kernel: None for the default kernel of the process.
    """

    def find(name: str | None, defaults: AgentSettings) -> tuple[Caller, AgentSettings]:
        return find_caller(tracker, name, defaults, run_manager)

    around = partial(tracker.during, run_manager)
    return AgentRef(directory, find, agent, settings or AgentSettings(), kernel, around)


def user_of_store() -> User | None:
    """Return the user of a store: the run around the call, or a caller that has an agent."""
    return User.known(directory, *find_running_caller(None, AgentSettings()))


def user_of_saver(config: RunnableConfig | None) -> User | None:
    """Return the user of a saver, which LangGraph calls outside the run, with its config."""
    about = {**((config or {}).get("metadata") or {}), **((config or {}).get("configurable") or {})}
    settings = AgentSettings().updated(about, "aios_")
    if named := about.get("aios_agent"):
        return User(directory, Caller.named(str(named), settings.group), settings)
    thread_id = about.get("thread_id")
    root = None if thread_id is None else tracker.latest_in(thread_id)
    if root is None:
        return user_of_store()
    return User(directory, _of_root(root, thread_id), settings)


def _config_of(run: ModelRun | None) -> dict[str, Any]:
    """Merge metadata and configurable of the run; the call's own metadata wins."""
    around = ensure_config()
    inner = run.metadata if run else {}
    return {**around["configurable"], **around["metadata"], **inner}


def _of_root(root: RunRoot, thread_id: Any = None) -> Caller:
    conversation = thread_id or root.conversation
    name = f"thread {conversation}" if conversation else f"{root.name}-{str(root.run_id)[-6:]}"
    return Caller(CallerKind.RUN, root.run_id, name)


# --- state of the process ----------------------------------------------------------------------


def _end_of(root: RunRoot) -> None:
    directory.end(_of_root(root))


def _is_live(caller: Caller) -> bool:
    return isinstance(caller.key, UUID) and tracker.is_live(caller.key)


tracker: Final[RunTracker] = RunTracker(_end_of)
_latest: ContextVar[ModelRun | None] = ContextVar("aios_model_run", default=None)
_batched: ContextVar[Caller | None] = ContextVar("aios_batch", default=None)
directory: Final[AgentDirectory] = AgentDirectory(is_live=_is_live)
_tracking: ContextVar[RunTracker | None] = ContextVar("aios_runs", default=tracker)
register_configure_hook(_tracking, inheritable=True)
