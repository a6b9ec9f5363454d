"""The kernel behind the rerouted fakes: its core hands each request to the fake that was called."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from aios_core import Kernel, KernelConfig, Message
from aios_core.cores import ScriptedCore
from aios_core.syscalls import LLMGenerate

KEY: Final = "reroute"  # under which a request's `extra` names its call

T = TypeVar("T")  # what a framework calls an answer


class Switchboard(Generic[T]):
    """Calls under way: what the fake will say, and what it said.

    Args:
        to_message: the fake's answer in the kernel's words.
    """

    def __init__(self, to_message: Callable[[T], Message]) -> None:
        self.num_calls = 0
        self._to_message = to_message
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Callable[[], T]] = {}
        self._said: dict[int, T] = {}
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
            core = ScriptedCore(self._answer, models=("fake",), slots=64)
            self._kernel = Kernel(config, cores=[core]).start()
        return self._kernel

    def close(self) -> None:
        """Close it, if it was started."""
        if self._kernel is not None:
            self._kernel.close(0)

    def expect(self, answer: Callable[[], T]) -> int:
        """A call is about to be made; the number by which its request names it."""
        number = next(self._numbers)
        self._waiting[number] = answer
        return number

    def said(self, number: int) -> T | None:
        """What the fake said, with all that no kernel carries; the call is over."""
        self._waiting.pop(number, None)
        return self._said.pop(number, None)

    def _answer(self, request: LLMGenerate) -> Message:
        """The core's script."""
        self.num_calls += 1
        number = request.extra[KEY]
        answer = self._said[number] = self._waiting.pop(number)()
        return self._to_message(answer)


def finished(work: Any) -> Any:
    """The result of a coroutine that awaits nothing, as fakes' are; else `RuntimeError`."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("this fake waits for something; it cannot answer as a core")
