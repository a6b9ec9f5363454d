"""Mode "passthrough": schedule calls that a framework's own client makes at its provider.

    async with apassthrough_call(agent, "gpt-4o", messages=[...]) as slot:
        answer = await slot.run(client.create(...))
        slot.settle(Usage(12, 3), answer.text)

The block starts when the scheduler gives the call a slot. It is an LLM syscall of
the agent: the policy decides when it runs, it reserves from budgets and has a deadline.
When the kernel cancels it (the agent exits, the deadline passes), the awaitable in
`slot.run` or `slot.iterate` is cancelled and the kernel's error is raised. An exception of the
provider passes unchanged, and the syscall counts as failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, ExitStack, closing, contextmanager, suppress
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar, Unpack

from aios_adapters.answer_limits import read_answer_limits
from aios_core.cores.external import EXTERNAL_CALL, PROVIDER_SUFFIX, ExternalCall, ExternalCore
from aios_core.errors import ConfigError, CoreError, InvalidRequest, KernelError
from aios_core.kernel import Agent, Kernel
from aios_core.kernel.default import default_kernel
from aios_core.kernel.streams import AsyncStream
from aios_core.messages import Completion, FinishReason, Message, ToolCall, Usage
from aios_core.options import CallOptions, Messages, ProviderOptions
from aios_core.shielding import finish_shielded

T = TypeVar("T")


class PassthroughCall:
    """A call at a provider that has its slot. Without `record_usage`, no tokens are counted."""

    def __init__(self, model: str, watch: asyncio.Future[Completion] | None = None) -> None:
        self.external_call = ExternalCall()
        self.completion = _completion(model, Usage(), "", ())
        self._model = model
        self._watch = watch  # done as soon as the kernel ends the call

    @property
    def token_limit(self) -> int | None:
        """Return the answer's token limit, set by the program or its budget; None for no limit."""
        return self.external_call.token_limit

    def limiting(
        self, arguments: Mapping[str, Any], key: str = "max_tokens", *, own: int | None = None
    ) -> dict[str, Any]:
        """Return arguments of a provider's client, with the budget's limit if none is set.

        Args:
            arguments: the client's arguments without it.
            key: the client's name for the limit.
            own: the limit that the program set elsewhere, such as in the client's constructor.
        """
        is_set = own is not None or read_answer_limits(arguments)["max_tokens"] is not None
        limit = None if is_set else self.token_limit
        if limit is None:
            return dict(arguments)
        self.external_call.has_sent_limit = True
        return {**arguments, key: limit}

    def record_usage(
        self, usage: Usage, text: str = "", tool_calls: Sequence[ToolCall] = ()
    ) -> None:
        """Record the usage of the provider's answer, and the answer for the kernel's records."""
        self.completion = _completion(self._model, usage, text, tool_calls)

    def attempt(self, ask: Callable[[], T]) -> T:
        """Call the provider, and once more without a budget's limit if it refuses that.

        `ask` makes the call with the arguments from `limiting`.
        """
        try:
            return ask()
        except Exception as exc:
            if not self.has_refused_limit(exc):
                raise
        return ask()

    async def aattempt(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Call the provider on an event loop (async form of `attempt`); raises as `run`."""
        try:
            return await self.run(ask())
        except Exception as exc:
            if not self.has_refused_limit(exc):
                raise
        return await self.run(ask())

    def steps(self, ask: Callable[[], Iterator[T]]) -> Generator[T]:
        """Yield the parts of a provider's stream, which is begun as `attempt` makes a call."""
        first, items = self.attempt(lambda: _begun(ask()))
        yield from first
        yield from items

    def has_refused_limit(self, exc: Exception) -> bool:
        """Return whether the provider refused a budget's limit; `limiting` leaves it out then."""
        if isinstance(exc, KernelError):
            return False
        return self.external_call.drop_limit(_provider_failed(self._model, exc))

    async def run(self, work: Awaitable[T]) -> T:
        """Await the provider.

        Raises:
            KernelError: the kernel has cancelled the call; `work` was cancelled.
        """
        self.external_call.was_sent = True
        task = asyncio.ensure_future(work)
        await self._until(task)
        return task.result()

    def iterate(
        self, items: AsyncIterator[T], again: Callable[[], AsyncIterator[T]] | None = None
    ) -> ProviderStream[T]:
        """Iterate over the provider's stream; raises as `run` if the kernel cancels the call.

        `again` begins another stream, for a provider that refuses a budget's limit.
        """
        self.external_call.was_sent = True
        return ProviderStream(self, items, again)

    async def _until(self, task: asyncio.Future[Any]) -> None:
        """Wait for a task; if the kernel ends the call first, cancel it and raise the reason."""
        assert self._watch is not None, "made by `apassthrough_call`"  # noqa: S101
        try:
            await asyncio.wait({task, self._watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await finish_shielded(asyncio.wait({task}))
        if self._watch.done() and (error := self._watch.exception()) is not None:
            task.cancelled() or task.exception()  # or asyncio would log it as never retrieved
            raise error


class ProviderStream(AsyncIterator[T]):
    """A provider's stream that the kernel can cancel; closed when it fails.

    Not a generator, like the block that holds a slot: a loop that stops closes its generators in
    any order (`aios_adapters.async_scope`).
    """

    def __init__(
        self,
        slot: PassthroughCall,
        items: AsyncIterator[T],
        again: Callable[[], AsyncIterator[T]] | None = None,
    ) -> None:
        self._slot = slot
        self._items = items
        self._again = again  # only until the first item

    async def __anext__(self) -> T:
        try:
            item = await self._next()
        except BaseException:
            await finish_shielded(self.aclose())
            raise
        self._again = None
        if item is None:
            raise StopAsyncIteration
        return item[0]

    async def _next(self) -> tuple[T] | None:
        try:
            return await self._slot.run(_anext(self._items))
        except Exception as exc:
            if self._again is None or not self._slot.has_refused_limit(exc):
                raise
            self._items = self._again()
        return await self._slot.run(_anext(self._items))

    async def aclose(self) -> None:
        """Close the provider's stream. Idempotent."""
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()


def _begun(items: Iterator[T]) -> tuple[tuple[T, ...], Iterator[T]]:
    """Return the first item, if there is one, and the iterator over the others."""
    return tuple(islice(items, 1)), items


async def _anext(items: AsyncIterator[T]) -> tuple[T] | None:
    """Return the next item in a tuple; None at the end: a task cannot raise StopAsyncIteration."""
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return None


@contextmanager
def passthrough_call(
    agent: Agent, model: str, messages: Messages, **options: Unpack[ProviderOptions]
) -> Iterator[PassthroughCall]:
    """Wait for a slot for a blocking call at a provider. Arguments as in `agent.llm.stream`.

    A blocking call cannot be interrupted: if the kernel cancels it, the answer is dropped when it
    arrives and the kernel's error is raised.
    """
    slot = PassthroughCall(model)
    with agent.llm.stream(messages, **_guarded(options, model, slot)) as stream:
        next(stream)
        slot.external_call.was_sent = True
        try:
            yield slot
        except BaseException as exc:
            slot.external_call.fail(_provider_failed(model, exc))
            raise
        slot.external_call.finish(slot.completion)
        for _ in stream:
            pass


def apassthrough_call(
    agent: Agent, model: str, messages: Messages, **options: Unpack[ProviderOptions]
) -> AbstractAsyncContextManager[PassthroughCall]:
    """Wait for a slot on an event loop (async form of `passthrough_call`).

    Call the provider with `slot.run` or `slot.iterate`. Closing a generator inside of the block
    does not await anything, however late it is closed.
    """
    return _SlotScope(agent, model, messages, options)


class _SlotScope:
    """The block of `apassthrough_call`."""

    def __init__(
        self, agent: Agent, model: str, messages: Messages, options: ProviderOptions
    ) -> None:
        self._agent = agent
        self._messages = messages
        self._options = options
        self._model = model
        self._slot = PassthroughCall(model)

    async def __aenter__(self) -> PassthroughCall:
        options = _guarded(self._options, self._model, self._slot)
        with ExitStack() as stack:
            stream = stack.enter_context(
                closing(self._agent.llm.astream(self._messages, **options))
            )
            await anext(stream)
            self._stack = stack.pop_all()
        self._watch = self._slot._watch = asyncio.ensure_future(_end_of(stream))  # noqa: SLF001
        return self._slot

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with self._stack:
            if exc is None:
                self._slot.external_call.finish(self._slot.completion)
                await finish_shielded(self._watch)
            elif isinstance(exc, Exception):
                self._slot.external_call.fail(_provider_failed(self._model, exc))
                with suppress(KernelError):
                    await finish_shielded(self._watch)
            elif not self._watch.done():  # the caller is cancelled, or closes its generator
                self._watch.cancel()


def register_provider_model(model: str, kernel: Kernel | None = None, *, slots: int = 16) -> Kernel:
    """Give a kernel slots for the calls of a provider's model. Returns the kernel.

    Args:
        model: the provider's name of the model.
        kernel: None for the default kernel. A default kernel that has to be started and has no
            core configured gets only these slots, and loads no model.
        slots: how many calls the provider gets at a time.
    """
    kernel = kernel or default_kernel(cores=lambda: [ExternalCore(model, slots=slots)])
    if model + PROVIDER_SUFFIX not in kernel.pool.models:
        with suppress(ConfigError):  # another thread has added it meanwhile
            kernel.add_core(ExternalCore(model, slots=slots))
    return kernel


async def aregister_provider_model(
    model: str, kernel: Kernel | None = None, *, slots: int = 16
) -> Kernel:
    """Give a kernel slots for a provider's model (async form of `register_provider_model`)."""
    if kernel is None:
        cores = [ExternalCore(model, slots=slots)]
        kernel = await asyncio.to_thread(default_kernel, cores=lambda: cores)
    if model + PROVIDER_SUFFIX not in kernel.pool.models:
        with suppress(ConfigError):
            await kernel.aadd_core(ExternalCore(model, slots=slots))
    return kernel


def to_kernel_messages(
    messages: Iterable[T], translate: Callable[[list[T]], Iterable[Message]]
) -> list[Message]:
    """Translate a framework's conversation for the kernel's accounting and records.

    A message that the kernel cannot represent, such as a picture, still goes to the provider; here
    a remark replaces it.

    Args:
        messages: the framework's messages.
        translate: the adapter's translation of a list of messages.
    """
    known: list[Message] = []
    for message in messages:
        try:
            known += translate([message])
        except InvalidRequest:
            known.append(Message("user", "(a message that only the provider can read)"))
    return known


def _guarded(options: ProviderOptions, model: str, slot: PassthroughCall) -> CallOptions:
    return {
        **options,
        "model": model + PROVIDER_SUFFIX,
        "extra": {EXTERNAL_CALL: slot.external_call},
    }


async def _end_of(stream: AsyncStream) -> Completion:
    async for _ in stream:
        pass
    return stream.completion


def _completion(model: str, usage: Usage, text: str, tool_calls: Sequence[ToolCall]) -> Completion:
    reason = FinishReason.TOOL_CALLS if tool_calls else FinishReason.STOP
    return Completion(Message("assistant", text, tuple(tool_calls)), reason, usage, model)


def _provider_failed(model: str, cause: BaseException) -> CoreError:
    error = CoreError(model + PROVIDER_SUFFIX, f"{type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
