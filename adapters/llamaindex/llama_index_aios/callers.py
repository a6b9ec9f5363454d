"""Find the agent of a call without the user's help.

It is the first of: the agent that is named (with LlamaIndex's `instrument_tags`, then on
the model); the root span (one `run` of an agent or workflow, one query of an
engine, with all that it starts); for a call outside any span, the asyncio task
or the thread that makes it.

LlamaIndex reports each span's id and its parent's; `SpanTracker`, a span handler of
the root dispatcher, records the ancestors. A run ends when all its spans have ended and its
streams are read, closed or dropped: a query engine returns a stream that calls the model
while it is read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Final

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation.span import BaseSpan, active_span_id
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import active_instrument_tags

from aios_adapters import (
    AgentDirectory,
    AgentRef,
    AgentSettings,
    Caller,
    CallerKind,
    RunHold,
    RunRoot,
    RunTree,
    User,
    current_caller,
)
from aios_core import Agent, Kernel
from aios_core.errors import InvalidRequest

_SETTINGS: Final = ("aios_group", "aios_priority", "aios_weight", "aios_budget")
_TAGS: Final = ("aios_agent", *_SETTINGS)


class SpanTracker(BaseSpanHandler[BaseSpan]):
    """A span handler that reports LlamaIndex's spans to a `RunTree`, and keeps none."""

    _tree: RunTree = PrivateAttr()

    def __init__(self, tree: RunTree) -> None:
        super().__init__()
        self._tree = tree

    def span_enter(
        self,
        id_: str,
        bound_args: Any,  # noqa: ARG002 - LlamaIndex's signature
        instance: Any = None,
        parent_id: str | None = None,
        tags: dict[str, Any] | None = None,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Record that a span has started."""
        self._tree.begin(id_, parent_id, _name_of(instance, id_))

    def span_exit(self, id_: str, *_: Any, result: Any = None, **_more: Any) -> None:
        """Record that a span has ended; a stream that it returns stays a part of its run."""
        if isinstance(result, StreamingResponse | AsyncStreamingResponse):
            _keep_within(self._tree, id_, result)
        self._tree.end(id_)

    def span_drop(self, id_: str, *_: Any, **_more: Any) -> None:
        """Record that a span has ended with an error."""
        self._tree.end(id_)

    def new_span(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""

    def prepare_to_exit_span(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""

    def prepare_to_drop_span(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""


def _name_of(instance: Any, span_id: str) -> str:
    """Return a readable name for a span: the object's name, or that of its class."""
    name = getattr(instance, "name", None)
    if isinstance(name, str) and name:
        return name
    return span_id.partition("-")[0].partition(".")[0]


def _keep_within(
    tree: RunTree, span_id: str, result: StreamingResponse | AsyncStreamingResponse
) -> None:
    """Attribute the calls that a query's stream makes while it is read to the query."""
    root, steps = tree.root_of(span_id), result.response_gen
    if root is None or getattr(steps, "__name__", None) in _WITHIN:
        return  # done for the inner of two spans
    if isinstance(steps, Generator):
        result.response_gen = _steps_within(root.run_id, tree.hold(span_id), steps)
    elif isinstance(steps, AsyncGenerator):
        result.response_gen = _asteps_within(root.run_id, tree.hold(span_id), steps)


def _steps_within(run_id: Any, hold: RunHold, steps: Generator[str]) -> Generator[str]:
    with hold, closing(steps):
        while True:
            token = active_span_id.set(run_id)
            try:
                step = next(steps)
            except StopIteration:
                return
            finally:
                active_span_id.reset(token)
            yield step


async def _asteps_within(
    run_id: Any, hold: RunHold, steps: AsyncGenerator[str]
) -> AsyncGenerator[str]:
    with hold:
        async with aclosing(steps):
            while True:
                token = active_span_id.set(run_id)
                try:
                    step = await anext(steps)
                except StopAsyncIteration:
                    return
                finally:
                    active_span_id.reset(token)
                yield step


_WITHIN: Final = (_steps_within.__name__, _asteps_within.__name__)


def agent_ref(
    agent: str | Agent | None = None,
    settings: AgentSettings | None = None,
    kernel: Kernel | None = None,
) -> AgentRef:
    """Refer to an agent that is given, named, or found from the run."""
    find = partial(find_caller, tree)
    return AgentRef(directory, find, agent, settings or AgentSettings(), kernel)


def claim(ref: AgentRef) -> tuple[RunHold, AgentRef]:
    """Find the caller of a stream where it is requested, and keep its run open.

    Release the hold when the stream ends; dropping an unread stream releases it too.

    Raises:
        InvalidRequest: a tag is wrong, as in `find_caller`.
    """
    located = ref.located()
    if isinstance(located.agent, Agent):
        return tree.hold(None), located
    caller, _ = located.find(None, located.settings)
    is_in_run = caller.kind is CallerKind.RUN
    return tree.hold(active_span_id.get() if is_in_run else None), located


def find_caller(
    tree: RunTree, name: str | None, defaults: AgentSettings
) -> tuple[Caller, AgentSettings]:
    """Return the caller of the running call, and the settings of its agent.

    Raises:
        InvalidRequest: an `aios_...` tag has a bad value, or is unknown: a misspelled limit must
            not be ignored.
    """
    tags: Mapping[str, Any] = active_instrument_tags.get() or {}
    if unknown := [key for key in tags if key.startswith("aios_") and key not in _TAGS]:
        raise InvalidRequest(f"tag: got {unknown[0]!r}; allowed: {list(_TAGS)}")
    settings = defaults.updated({key: tags[key] for key in _SETTINGS if key in tags}, "aios_")
    if named := tags.get("aios_agent") or name:
        return Caller.named(str(named), settings.group), settings
    span_id = active_span_id.get()
    root = tree.root_of(span_id) if span_id else None
    if root is None:
        return current_caller(), settings
    if root.run_id == span_id:  # the call's own span, with no run around it
        return root.caller, settings
    return _of_root(root), settings


def user_of_store() -> User | None:
    """Return the user of a store: the run around the call, or a caller that has an agent."""
    return User.known(directory, *find_caller(tree, None, AgentSettings()))


def _of_root(root: RunRoot) -> Caller:
    return Caller(CallerKind.RUN, root.run_id, f"{root.name}-{str(root.run_id)[-6:]}")


# --- state of the process ----------------------------------------------------------------------


def _end_of(root: RunRoot) -> None:
    directory.end(_of_root(root))


def _is_live(caller: Caller) -> bool:
    return isinstance(caller.key, str) and tree.is_live(caller.key)


tree: Final = RunTree(_end_of, waits_for_descendants=True)
directory: Final = AgentDirectory(is_live=_is_live)
get_dispatcher().add_span_handler(SpanTracker(tree))
