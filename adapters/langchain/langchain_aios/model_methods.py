"""LangChain's ways to call a model, with what tells whose call it is handed on.

A model's run is told a config's metadata and not its `configurable`, and the calls of a
batch run on a pool's threads or in tasks of their own. The wrappers here take the
methods of any model; `ENTRIES` says which.
"""

from __future__ import annotations

from asyncio import create_task
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import wraps
from typing import Any, Final, TypeVar, cast

from aios_core.launch import Patches
from langchain_aios.callers import batching, in_batch, with_metadata

F = TypeVar("F", bound=Callable[..., Any])


def hand_on(method: F) -> F:
    """Copy what the config says of the agent to where the call finds it."""

    @wraps(method)
    def handed_on(self: Any, asked: Any, config: Any = None, **kwargs: Any) -> Any:
        return method(self, asked, with_metadata(config), **kwargs)

    return cast("F", handed_on)


def as_one(method: F) -> F:
    """Make the calls of a batch those of whoever asks for it."""

    @wraps(method)
    def batched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with batching():
            return method(self, *args, **kwargs)

    return cast("F", batched)


def as_one_soon(method: F) -> F:
    """Make the calls of a batch those of whoever asks for it, on an event loop."""

    @wraps(method)
    async def batched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with batching():
            return await method(self, *args, **kwargs)

    return cast("F", batched)


def as_one_by_one(method: F) -> F:
    """Make the calls of a batch those of whoever asks, where answers are given as they come."""

    @wraps(method)
    def batched(self: Any, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        context = in_batch()
        answers = method(self, *args, **kwargs)
        while (answer := context.run(next, answers, None)) is not None:
            yield answer

    return cast("F", batched)


def as_one_by_one_soon(method: F) -> F:
    """Make the calls of a batch those of whoever asks, as they come on an event loop."""

    @wraps(method)
    async def batched(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[tuple[int, Any]]:
        context = in_batch()
        answers = method(self, *args, **kwargs)
        while (answer := await create_task(_next(answers), context=context)) is not None:
            yield answer

    return cast("F", batched)


async def _next(answers: AsyncIterator[tuple[int, Any]]) -> tuple[int, Any] | None:
    return await anext(answers, None)


ENTRIES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "invoke": hand_on,
    "ainvoke": hand_on,
    "stream": hand_on,
    "astream": hand_on,
    "stream_events": hand_on,
    "astream_events": hand_on,
    "batch": as_one,
    "abatch": as_one_soon,
    "batch_as_completed": as_one_by_one,
    "abatch_as_completed": as_one_by_one_soon,
}


def patch_entries(owner: Any, patches: Patches) -> None:
    """Put the wrappers around a foreign class's methods."""
    for name, wrap in ENTRIES.items():
        if hasattr(owner, name):  # older versions have fewer
            patches.replace(owner, name, wrap(getattr(owner, name)))
