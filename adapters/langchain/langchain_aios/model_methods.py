"""Wrap LangChain's public methods of a model, so that a call can find its caller.

LangChain passes a config's metadata to a model's run and not its `configurable`, and runs the
calls of a batch on a pool's threads or in new tasks. The wrappers work for the methods of
any model, which `ENTRIES` lists.
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
    """Wrap a method to copy the agent's settings in the config to the metadata."""

    @wraps(method)
    def handed_on(self: Any, asked: Any, config: Any = None, **kwargs: Any) -> Any:
        return method(self, asked, with_metadata(config), **kwargs)

    return cast("F", handed_on)


def as_one(method: F) -> F:
    """Wrap a batch method to attribute its calls to its caller."""

    @wraps(method)
    def batched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with batching():
            return method(self, *args, **kwargs)

    return cast("F", batched)


def as_one_soon(method: F) -> F:
    """Wrap an asynchronous batch method to attribute its calls to its caller."""

    @wraps(method)
    async def batched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with batching():
            return await method(self, *args, **kwargs)

    return cast("F", batched)


def as_one_by_one(method: F) -> F:
    """Wrap a batch method that yields answers as they complete."""

    @wraps(method)
    def batched(self: Any, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        context = in_batch()
        answers = method(self, *args, **kwargs)
        while (answer := context.run(next, answers, None)) is not None:
            yield answer

    return cast("F", batched)


def as_one_by_one_soon(method: F) -> F:
    """Wrap an asynchronous batch method that yields answers as they complete."""

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
    """Wrap the methods of a class of LangChain or a third party."""
    for name, wrap in ENTRIES.items():
        if hasattr(owner, name):  # older versions have fewer
            patches.replace(owner, name, wrap(getattr(owner, name)))
