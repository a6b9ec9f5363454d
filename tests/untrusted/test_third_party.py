"""Exceptions of foreign code are shown, bounded, and without running that code on the loop."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aios_core import ApprovalRefused, CoreError, Kernel, KernelConfig
from aios_core.access import ApprovalRequest
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import AccessDenied, InvalidArguments, ToolError
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.third_party import (
    MAX_CHARS,
    ForeignException,
    describe,
    describe_on_worker,
    detach,
    is_harmless,
    is_kernel_error,
    log_raised,
    name_of,
    places_of,
)


class Talkative(Exception):
    """Makes its own text."""

    def __str__(self) -> str:
        return f"I say {self.args[0]}"


class Liar(Exception):
    """An object that pretends to be of another class, and raises when it is inspected."""

    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError("do not ask")


class Broken(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class Odd(ToolError, StopIteration):
    """An error of the kernel that a future does not take."""


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001 - it is what was raised
        return caught


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (ValueError(1, [2.5, None]), "ValueError: (1, [2.5, None])"),
        (KeyError("k"), "KeyError: 'k'"),
        (
            FileNotFoundError(2, "No such file", "x"),
            "FileNotFoundError: [Errno 2] No such file: 'x'",
        ),
        (SystemExit(3), "SystemExit: 3"),
        (
            ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
            "ExceptionGroup: two (2 inside: ValueError: a; KeyError: 'b')",
        ),
    ],
)
def test_what_python_itself_raises_is_shown_as_python_shows_it(
    exc: BaseException, text: str
) -> None:
    assert describe(exc) == describe_on_worker(exc) == text


def test_a_text_that_foreign_code_makes_is_made_on_a_worker_only() -> None:
    exc = Talkative("hello")

    assert describe_on_worker(exc) == "Talkative: I say hello"
    assert "hello" not in describe(exc)


def test_a_text_that_cannot_be_made_is_not_missed() -> None:
    assert describe_on_worker(Broken()) == "Broken (making its text raised)"


def test_a_text_that_is_never_made_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios_core.untrusted.third_party.RENDER_S", 0.05)
    go_on = threading.Event()

    class Hanging(Exception):
        def __str__(self) -> str:
            go_on.wait()
            return "late"

    try:
        for _ in range(10):  # more than may hang at once
            assert describe_on_worker(Hanging()).startswith("Hanging (its text")
    finally:
        go_on.set()


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x" * 10_000_000),
        ValueError(["x" * 1_000] * 100_000),
        ValueError(*range(100_000)),
        ValueError(10**100_000),
        Talkative("x" * 10_000_000),
        ExceptionGroup("x" * 100_000, [ValueError("y" * 10_000)] * 1_000),
    ],
    ids=["long", "list", "many", "number", "made", "group"],
)
def test_every_text_is_bounded(exc: BaseException) -> None:
    assert len(describe(exc)) < MAX_CHARS + 300
    assert len(describe_on_worker(exc)) < MAX_CHARS + 300


def test_a_detached_exception_keeps_nothing_of_the_program_alive() -> None:
    def work() -> None:
        try:
            {}["missing"]
        except KeyError as exc:
            raise ValueError("bad") from exc

    try:
        work()
    except ValueError as exc:
        caught = exc
    assert detach(caught) is caught

    for one in (caught, caught.__cause__):
        assert one is not None
        assert one.__traceback__ is None
        assert one.__context__ is None
        assert any("in test_a_detached" in note or "work" in note for note in one.__notes__)


def test_one_that_is_raised_many_times_does_not_grow() -> None:
    exc = ValueError("always the same one")
    for _ in range(100):
        detach(raised(exc))
    assert len(exc.__notes__) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Talkative("x"),
        Broken,
        Liar,
        lambda: ValueError(object()),
        lambda: ValueError("x" * 1_000_000),
    ],
    ids=["talkative", "broken", "liar", "object", "long"],
)
def test_what_is_not_harmless_is_replaced_by_its_text(make: Callable[[], Exception]) -> None:
    exc = make()
    assert not is_harmless(exc)
    detached = detach(raised(exc))
    assert type(detached) is ForeignException
    assert type(exc).__name__ in str(detached)
    assert "in raised" in str(detached)


def test_an_exception_that_lies_about_its_class_is_shown_by_its_real_one() -> None:
    assert describe(Liar("z")) == "Liar: z"


def test_a_chain_without_an_end_is_not_followed() -> None:
    one, other = ValueError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert is_harmless(one)
    last = ValueError("0")
    for number in range(sys.getrecursionlimit() * 2):
        following = ValueError(str(number))
        following.__cause__ = last
        last = following
    assert not is_harmless(last)


def test_only_what_the_kernel_defines_passes_for_an_error_of_the_kernel() -> None:
    class Foreign(ToolError):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert is_kernel_error(ToolError("x", "y"))
    assert is_kernel_error(AccessDenied(1, "read", "y"))
    assert is_kernel_error(InvalidArguments("x", {"a": "b"}))
    assert not is_kernel_error(Foreign("x", "y"))
    assert not is_kernel_error(Odd("x", "y"))
    assert not is_kernel_error(ValueError("x"))


def test_a_callable_is_named_without_its_repr() -> None:
    class Observer:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert name_of(Observer()) == "<Observer>"
    assert name_of(raised).startswith("raised (")


def test_a_failure_is_logged_without_asking_it(caplog: pytest.LogCaptureFixture) -> None:
    log_raised(logging.getLogger("aios_core.test"), raised(Broken()), "%s failed", "it")

    assert "it failed: Broken (its text is not shown" in caplog.text
    assert "in raised" in caplog.text
    assert caplog.records[0].exc_info is None


def test_an_observer_whose_exception_has_no_text_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Observer:
        def __call__(self, _event: KernelEvent) -> None:
            raise Broken

        def __repr__(self) -> str:
            raise ZeroDivisionError

    heard: list[KernelEvent] = []
    events = EventStream([Observer(), heard.append])
    events.emit(KernelEvent(0.0, EventKind.DONE))
    events.emit(KernelEvent(1.0, EventKind.DONE))

    assert len(heard) == 2
    assert caplog.text.count("observer <Observer> raised and was dropped: Broken") == 1


def test_a_script_whose_exception_has_no_text_answers_its_caller() -> None:
    def answer(_request: LLMGenerate) -> str:
        raise Broken

    config = KernelConfig(state={"directory": ":memory:"}, drain_s=0.0)  # type: ignore[arg-type]
    with Kernel(config, cores=[ScriptedCore(answer)]) as kernel:
        with pytest.raises(CoreError, match=r"the script raised Broken \(its text"):
            kernel.spawn("alice").llm.generate("hello")
        kernel.check()


@pytest.mark.parametrize("is_async", [True, False])
def test_an_approver_whose_exception_has_no_text_says_no(is_async: bool) -> None:
    def approve(_request: ApprovalRequest) -> bool:
        raise Broken

    async def aapprove(request: ApprovalRequest) -> bool:
        return approve(request)

    config = KernelConfig(state={"directory": ":memory:"}, drain_s=0.0)  # type: ignore[arg-type]
    approver = aapprove if is_async else approve
    core = ScriptedCore(lambda _request: "ok")
    with Kernel(config, cores=[core], approver=approver) as kernel:
        with pytest.raises(ApprovalRefused, match=r"asking failed: Broken \(its text"):
            kernel.spawn("alice").tools.load("json")
        kernel.check()


def test_where_a_detached_exception_was_raised_can_be_read() -> None:
    for exc in (ValueError("x"), Talkative("x")):
        path, line = places_of(detach(raised(exc)))[-1]
        assert path == raised.__code__.co_filename
        assert line > raised.__code__.co_firstlineno
