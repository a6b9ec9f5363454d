"""The kernel behind the rerouted fakes.

A call of a fake becomes two things at once: a call of ours, by the adapter and through the
kernel, and the fake's own call, which starts when the kernel schedules it, on the caller's
own stack. The fake's answer is passed to the core (`SwitchboardCore`) and comes back through
kernel and adapter. There it is compared with the original: a difference raises `LostOnTheWay`,
and the test fails. If there is none, the caller gets the fake's own objects (answers, chunks,
exceptions), since tests look at ids, at metadata, or at whether it is the very same object.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from asyncio import AbstractEventLoop
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Final, Generic, TypeVar

from aios_core import Completion, Delta, Kernel, KernelConfig, Message, Usage
from aios_core.core import Capabilities, Prepared
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.errors import CoreError
from aios_core.messages import FinishReason
from aios_core.syscalls import LLMGenerate

KEY: Final = "reroute"  # under which a request's `extra` names its call

_MODEL: Final = "fake"
_WINDOW: Final = 2_000_000  # fakes have no limit
_COMPARED: Final = ("content", "tool_calls", "reasoning", "refusal", "thinking")

T = TypeVar("T")  # what a framework calls an answer
S = TypeVar("S")  # ... and a step of one


class LostOnTheWay(AssertionError):
    """The kernel or the adapter passed on something other than the fake's answer."""


class Call:
    """A call in flight. Its caller answers for the core, from any thread."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun: Future[None] = Future()  # it has its turn
        self._items: asyncio.Queue[Item | CoreError] = asyncio.Queue()
        self._loop: AbstractEventLoop | None = None

    def begin(self) -> None:
        """Give it its turn. Runs on the kernel's loop."""
        self._loop = asyncio.get_running_loop()
        self.begun.set_result(None)

    async def items(self) -> AsyncGenerator[Item]:
        """Yield the fake's deltas as they come."""
        while True:
            item = await self._items.get()
            if isinstance(item, CoreError):
                raise item
            yield item

    def say(self, item: Item | CoreError) -> None:
        """Send an item to the core; it is dropped if the call has ended."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def finish(self, message: Message) -> None:
        """Send the whole answer."""
        reason = FinishReason.TOOL_CALLS if message.tool_calls else FinishReason.STOP
        usage = Usage(1, max(1, len(message.content.split())))
        self.say(Completion(message, reason, usage, _MODEL))

    def fail(self) -> None:
        """End the call without an answer. The caller has the fake's own exception."""
        self.say(CoreError(_MODEL, "the fake did not answer"))


class SwitchboardCore(StreamingCore):
    """A core that repeats the answers of the fakes, each sent by the caller of its call."""

    def __init__(self, take: Callable[[int], Call], *, slots: int = 64) -> None:
        super().__init__(_MODEL, (_MODEL,), slots=slots)
        self._take = take

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(context_window=_WINDOW, parts=None)

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Count words; any prompt of a fake fits."""
        words = sum(len(message.content.split()) for message in request.messages)
        return Prepared(min(words, _WINDOW // 2), _WINDOW // 2)

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Start the call, then pass on the items that its caller sends."""
        call = self._take(live.run.request.extra[KEY])
        call.begin()
        async for item in call.items():
            yield item


class Switchboard(Generic[T, S]):
    """Lets calls of fakes go through a kernel.

    Args:
        to_message: an answer in the kernel's words.
        to_delta: a step of a streamed answer in the kernel's words.
        join: the whole answer that steps make, in the kernel's words.
    """

    def __init__(
        self,
        to_message: Callable[[T], Message],
        to_delta: Callable[[S], Delta],
        join: Callable[[list[S]], Message],
    ) -> None:
        self.num_calls = 0
        self.num_unsayable = 0  # answers that no core can give, so that none was compared
        self._to_message = to_message
        self._to_delta = to_delta
        self._join = join
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._kernel: Kernel | None = None

    def kernel(self) -> Kernel:
        """Started when it is first needed."""
        if self._kernel is None:
            config = KernelConfig.load(
                environ={},
                state={"directory": ":memory:"},
                guard={"max_calls": "none", "max_repeats": "none"},
                memory={"quota_bytes": "none"},
            )
            core = SwitchboardCore(self._take)
            self._kernel = Kernel(config, cores=[core]).start()
        return self._kernel

    def close(self) -> None:
        """Close it, if it was started."""
        if self._kernel is not None:
            self._kernel.close(0)

    def report(self) -> str:
        """Report how many calls went through the kernel."""
        unsayable = f" ({self.num_unsayable} not compared)" if self.num_unsayable else ""
        return f"{self.num_calls} calls of fake models{unsayable}"

    # --- the four ways to call -----------------------------------------------------------------

    def answer(self, ours: Callable[[int], T], theirs: Callable[[], T]) -> T:
        """Call a fake, in a thread that may wait."""
        with self._call() as call:
            returned = _in_thread(ours, call.number)
            _await_turn(call, returned)
            with _told(call, returned):
                answer = theirs()
            is_told = self._tell(call, answer)
            _settle(returned)
            if is_told:
                self._compare(answer, returned.result())
            return answer

    async def aanswer(
        self, ours: Callable[[int], Awaitable[T]], theirs: Callable[[], Awaitable[T]]
    ) -> T:
        """Call a fake on an event loop."""
        with self._call() as call:
            returned = asyncio.ensure_future(ours(call.number))
            try:
                await _aawait_turn(call, returned)
                answer = await theirs()
                is_told = self._tell(call, answer)
            except BaseException:
                await _asettle(call, returned)
                raise
            if is_told:
                self._compare(answer, await returned)
            else:
                await asyncio.wait((returned,))
            return answer

    def steps(
        self, ours: Callable[[int], Iterable[S]], theirs: Callable[[], Iterator[S]]
    ) -> Iterator[S]:
        """Stream from a fake, in a thread that may wait."""
        with self._call() as call:
            returned = _in_thread(lambda number: list(ours(number)), call.number)
            _await_turn(call, returned)
            steps: list[S] = []
            with _told(call, returned):
                for step in theirs():
                    steps.append(step)
                    self._tell_step(call, step)
                    yield step
            is_told = self._tell_end(call, steps)
            _settle(returned)
            if is_told:
                self._compare_steps(steps, returned.result())

    async def asteps(
        self, ours: Callable[[int], AsyncIterable[S]], theirs: Callable[[], AsyncIterator[S]]
    ) -> AsyncIterator[S]:
        """Stream from a fake on an event loop."""
        with self._call() as call:
            returned = asyncio.ensure_future(_collect(ours(call.number)))
            steps: list[S] = []
            try:
                await _aawait_turn(call, returned)
                async for step in theirs():
                    steps.append(step)
                    self._tell_step(call, step)
                    yield step
                is_told = self._tell_end(call, steps)
            except BaseException:
                await _asettle(call, returned)
                raise
            if is_told:
                self._compare_steps(steps, await returned)
            else:
                await asyncio.wait((returned,))

    # --- answers -------------------------------------------------------------------------------

    @contextmanager
    def _call(self) -> Iterator[Call]:
        call = Call(next(self._numbers))
        self._calls[call.number] = call
        try:
            yield call
        finally:
            self._calls.pop(call.number, None)

    def _take(self, number: int) -> Call:
        self.num_calls += 1
        return self._calls[number]

    def _tell(self, call: Call, answer: T) -> bool:
        """Send an answer. Returns whether that was possible."""
        return self._tell_message(call, lambda: self._to_message(answer))

    def _tell_end(self, call: Call, steps: list[S]) -> bool:
        return self._tell_message(call, lambda: self._join(steps))

    def _tell_message(self, call: Call, message: Callable[[], Message]) -> bool:
        try:
            call.finish(message())
        except Exception:  # noqa: BLE001 - a suite's own idea of an answer
            self.num_unsayable += 1
            call.fail()
            return False
        return True

    def _tell_step(self, call: Call, step: S) -> None:
        with suppress(Exception):  # then the whole cannot be sent either, and is not compared
            call.say(self._to_delta(step))

    def _compare(self, theirs: T, ours: T) -> None:
        require_same(self._to_message(theirs), self._to_message(ours))

    def _compare_steps(self, theirs: list[S], ours: list[S]) -> None:
        require_same(self._join(theirs), self._join(ours))


def require_same(said: Message, heard: Message) -> None:
    """Raise `LostOnTheWay` if the received answer differs from the fake's."""
    for name in _COMPARED:
        one, other = getattr(said, name) or None, getattr(heard, name) or None
        if one != other:
            raise LostOnTheWay(f"{name}: the fake gave {one!r:.500}, the kernel {other!r:.500}")


# --- the two halves of a call --------------------------------------------------------------------


def _in_thread(ours: Callable[[int], T], number: int) -> Future[T]:
    """Make our half of a call, in a thread and a copy of the caller's context."""
    returned: Future[T] = Future()
    context = copy_context()

    def work() -> None:
        try:
            returned.set_result(context.run(ours, number))
        except BaseException as exc:  # noqa: BLE001 - the waiting caller gets it
            returned.set_exception(exc)

    with _unwatched():
        threading.Thread(target=work, name=f"reroute-{number}", daemon=True).start()
    return returned


def _await_turn(call: Call, returned: Future[Any]) -> None:
    """Wait until it may begin. Raises what our half raises instead."""
    with _unwatched():
        wait((call.begun, returned), return_when=FIRST_COMPLETED)
    if not call.begun.done():
        returned.result()
        raise LostOnTheWay("the kernel answered without its core")


async def _aawait_turn(call: Call, returned: asyncio.Future[Any]) -> None:
    begun = asyncio.wrap_future(call.begun)
    await asyncio.wait((begun, returned), return_when=asyncio.FIRST_COMPLETED)
    if not call.begun.done():
        returned.result()
        raise LostOnTheWay("the kernel answered without its core")


@contextmanager
def _told(call: Call, returned: Future[Any]) -> Iterator[None]:
    """Let the kernel know if the fake raises or its stream is left."""
    try:
        yield
    except BaseException:
        call.fail()
        _settle(returned)
        raise


def _settle(returned: Future[Any]) -> None:
    """Wait until our half of a call is over."""
    with _unwatched():
        wait((returned,))


@contextmanager
def _unwatched() -> Iterator[None]:
    """Wait as if no event loop ran in this thread.

    Suites call fakes that answer at once, without awaiting them, on event loops that are watched
    for blocking calls. The wait is ours, not theirs.
    """
    loop = asyncio._get_running_loop()  # noqa: SLF001 - public for event loops
    asyncio._set_running_loop(None)  # noqa: SLF001
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)  # noqa: SLF001


async def _asettle(call: Call, returned: asyncio.Future[Any]) -> None:
    """End our half of a call, and ignore its errors."""
    call.fail()
    returned.cancel()
    await asyncio.wait((returned,))
    if not returned.cancelled():
        returned.exception()  # it is retrieved, and the fake's own is raised


async def _collect(steps: AsyncIterable[S]) -> list[S]:
    return [step async for step in steps]


# --- fakes that call themselves ------------------------------------------------------------------

_answering: ContextVar[frozenset[int]] = ContextVar("answering", default=frozenset())


def is_answering(fake: object) -> bool:
    """Return whether one of the fake's methods is called by another one."""
    return id(fake) in _answering.get()


@contextmanager
def answering(fake: object) -> Iterator[None]:
    """Leave calls in this block to the fake itself."""
    before = _answering.get()
    _answering.set(before | {id(fake)})
    try:
        yield
    finally:
        _answering.set(before)  # no token: a stream may be read in another context


def own_steps(fake: object, steps: Iterable[S]) -> Iterator[S]:
    """A fake's own stream, each step of which is its own business."""
    source = iter(steps)
    try:
        while True:
            with answering(fake):
                try:
                    step = next(source)
                except StopIteration:
                    return
            yield step
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


async def own_asteps(fake: object, steps: AsyncIterable[S]) -> AsyncIterator[S]:
    """A fake's own stream on an event loop, each step of which is its own business."""
    source = aiter(steps)
    try:
        while True:
            with answering(fake):
                try:
                    step = await anext(source)
                except StopAsyncIteration:
                    return
            yield step
    finally:
        aclose = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()
