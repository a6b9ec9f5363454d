"""pytest plug-in: LangChain's and LangGraph's fake chat models answer through the kernel.

    pytest -p compat_bench.reroute.langchain tests

Every chat model class that a test suite defines, and those of
`langchain_core.language_models.fake_chat_models`, is rerouted: its call becomes a
syscall of `ChatAIOS`, on a kernel whose core hands the request to the fake. What
only LangChain knows of a message and no kernel carries (ids, extra metadata) is put
back. `InMemorySaver` is replaced by `AIOSSaver`, so that checkpoints are
syscalls too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import wraps
from typing import Any, Final, Self

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from aios_core import Message
from compat_bench.reroute.switchboard import KEY, Switchboard
from langchain_aios import ChatAIOS
from langchain_aios.translation import to_messages

_FAKES: Final = "langchain_core.language_models.fake_chat_models"


def _message_of(result: ChatResult) -> Message:
    message = result.generations[0].message
    if not isinstance(message, AIMessage):
        raise TypeError(f"a fake answered with a {type(message).__name__}")
    (said,) = to_messages([message])
    return said


switchboard = Switchboard(_message_of)
num_savers = itertools.count()


def pytest_collection_finish(session: pytest.Session) -> None:
    """The suite's modules are imported: reroute the fakes that they define."""
    for fake in _subclasses(BaseChatModel):
        if fake.__module__ == _FAKES or fake.__module__.partition(".")[0] == "tests":
            _reroute(fake)
    del session


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Put our saver in the place of the in-memory one, before anybody imports that."""
    with suppress(ImportError):  # a suite of langchain-core has no savers
        _reroute_savers()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much went through the kernel."""
    calls, savers = switchboard.num_calls, next(num_savers)
    terminalreporter.write_line(f"rerouted: {calls} calls of fake models, {savers} savers")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()


def _subclasses(kind: type) -> Iterator[Any]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _reroute(fake: Any) -> None:
    """Let the `_generate` that a class defines go through the kernel.

    Streams of fakes are made of it; those that have an own way to stream keep it.
    """
    if "_generate" not in vars(fake):
        return
    original = fake._generate  # noqa: SLF001 - LangChain's own protocol

    @wraps(original)
    def generate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        number = switchboard.expect(lambda: original(self, messages, stop, run_manager, **kwargs))
        ours = ChatAIOS(kernel=switchboard.kernel(), stop=None)
        try:
            result = ours._generate(messages, None, None, **_said(kwargs, number))  # noqa: SLF001
        finally:
            spoken = switchboard.said(number)
        _restore(result, spoken)
        return result

    fake._generate = generate  # noqa: SLF001


def _said(kwargs: dict[str, Any], number: int) -> dict[str, Any]:
    """What the kernel is told: the tools, where they are such, and whose call it is."""
    said: dict[str, Any] = {KEY: number}
    with suppress(Exception):  # a suite's own idea of a tool is not the kernel's business
        if tools := kwargs.get("tools"):
            said["tools"] = [convert_to_openai_tool(tool) for tool in tools]
    return said


def _restore(result: ChatResult, spoken: ChatResult | None) -> None:
    """Put back what LangChain knows of a message and no kernel carries."""
    if spoken is None:
        return
    result.llm_output = spoken.llm_output
    result.generations[0].generation_info = spoken.generations[0].generation_info
    ours, theirs = result.generations[0].message, spoken.generations[0].message
    ours.id, ours.name = theirs.id, theirs.name
    ours.additional_kwargs = theirs.additional_kwargs
    ours.response_metadata = theirs.response_metadata
    if isinstance(ours, AIMessage) and isinstance(theirs, AIMessage):
        ours.usage_metadata = theirs.usage_metadata
    if not isinstance(theirs.content, str):
        ours.content = theirs.content


def _reroute_savers() -> None:
    import langgraph.checkpoint.memory as module  # noqa: PLC0415

    from langchain_aios import AIOSSaver  # noqa: PLC0415 - not every version has it

    class ReroutedSaver(AIOSSaver):
        """Made and left as `InMemorySaver` is."""

        def __init__(self, *, serde: Any = None, factory: Any = None) -> None:
            del factory
            name = f"saver-{next(num_savers)}"
            super().__init__(name, kernel=switchboard.kernel(), serde=serde)
            self.stack = ExitStack()

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *exc_info: object) -> None:
            self.stack.close()

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            self.stack.close()

    for name in ("InMemorySaver", "MemorySaver"):
        setattr(module, name, ReroutedSaver)
