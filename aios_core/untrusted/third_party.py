"""Show exceptions and objects of third-party code safely.

Tools, plug-ins, policies, observers, approvers and scripts raise what they like: exceptions
with a `__str__` that raises, hangs or returns a gigabyte, with a `__class__` that lies, with
a traceback that keeps half of the program alive.

- `describe` runs none of their code, so it may be called on the kernel's loop.
- `describe_on_worker` also shows texts that foreign code makes. It waits for them at most
  `RENDER_S`, on a thread of its own, and only for threads that may wait.
- `detach` makes an exception safe to hand on: without its frames, with a text of them.
- `pass_on` lets Ctrl-C reach the program after the kernel has answered the waiting callers.

Promises: none of these raises; every text has at most `MAX_CHARS` characters, plus a name.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from aios_core.errors import KernelError
from aios_core.redaction import redact, scrub

# Foreign code that the kernel calls may raise anything. A `BaseException` such as `SystemExit`
# (`sys.exit()`) would end the loop's callback, or the loop itself. Every handler that catches it
# calls `pass_on`.
RAISED: Final = BaseException
OF_THE_LOOP: Final = (asyncio.CancelledError, GeneratorExit)  # what an await raises by itself
MAX_CHARS: Final = 4_000  # of one text
RENDER_S: Final = 1.0  # a foreign `__str__` has that long
_MAX_NAME: Final = 200
_MAX_ITEMS: Final = 20
_MAX_NAMED: Final = 5  # exceptions of a group
_MAX_NESTING: Final = 4
_MAX_CHAIN: Final = 20  # exceptions that are causes of one another
_MAX_FRAMES: Final = 20
_MAX_BITS: Final = 4_096  # larger numbers take long to write in decimal digits
_MAX_RENDERERS: Final = 4  # texts that are made at once, those that hang among them
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made while Python ran

# Read through `type` and `BaseException` themselves: a metaclass or a property may lie.
_read: Final[dict[str, Any]] = {
    name: type.__dict__[name] for name in ("__name__", "__mro__", "__dict__", "__flags__")
}
_of: Final[dict[str, Any]] = {
    name: BaseException.__dict__[name]
    for name in ("args", "__cause__", "__context__", "__traceback__", "__dict__")
}
_GROUP: Final[dict[str, Any]] = dict(vars(BaseExceptionGroup))
# Attributes that the built-in `__str__` of a class shows in addition to `args`.
_SHOWN: Final[dict[type, tuple[str, ...]]] = {
    OSError: ("errno", "strerror", "filename", "filename2"),
    ImportError: ("msg",),
    SyntaxError: ("msg", "filename", "lineno"),
}
# A class that defines one of these runs its own code when an exception is shown or freed.
_OWN_WAYS: Final = frozenset(
    [
        *("__class__", "__cause__", "__context__", "__del__", "__getattr__", "__getattribute__"),
        *("__notes__", "__suppress_context__", "__traceback__"),
    ]
)
_PLACE: Final = re.compile(r'^  File "(.+)", line (\d+), in ', re.MULTILINE)
_PLAIN_BASES: Final = (Exception, BaseException, object)
_renderers: Final = threading.BoundedSemaphore(_MAX_RENDERERS)


class ForeignException(Exception):
    """Stands for an exception that cannot be handed on as it is; a text of what it was."""


def type_name(value: object) -> str:
    """The name of the real class of an object."""
    return _exact(_read["__name__"].__get__(type(value)))[:_MAX_NAME]


def name_of(function: object) -> str:
    """Return the name of a callable for a log; of its class, if it is not a function."""
    code = getattr(function, "__code__", None) if type(function) is type(name_of) else None
    if type(code) is CodeType:
        return f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
    return f"<{type_name(function)}>"


def describe(exc: BaseException) -> str:
    """An exception as `ValueError: its text`, without running any foreign code."""
    return _joined(exc, plain_text(exc), "its text is not shown, since its own code would make it")


def describe_on_worker(exc: BaseException) -> str:
    """An exception as `ValueError: its text`, even if foreign code makes the text. Blocks."""
    text = plain_text(exc)
    if text is not None:
        return _joined(exc, text, "")
    text, why = _rendered(exc)
    return _joined(exc, text, why)


def plain_text(exc: BaseException) -> str | None:
    """The text of an exception; None if only foreign code could make it."""
    maker = _maker_of_text(exc)
    if maker is BaseExceptionGroup:
        return _text_of_group(exc)
    args: tuple[object, ...] = _of["args"].__get__(exc)
    if maker is None or any(shown_value(one) is None for one in args[:_MAX_ITEMS]):
        return None
    if maker is KeyError and len(args) == 1:
        return shown_value(args[0])
    return _text_of_args(args) if maker is BaseException else _text_of_attributes(exc, maker)


def shown_value(value: object, depth: int = 0) -> str | None:
    """A bounded `repr` of a built-in value; None if there are others in it."""
    kind = type(value)
    if kind is str or kind is bytes:
        return repr(value[:MAX_CHARS])  # type: ignore[index]
    if kind is int:
        return str(value) if value.bit_length() <= _MAX_BITS else "<a long number>"  # type: ignore[attr-defined]
    if value is None or kind in (bool, float, complex):
        return repr(value)
    if kind in (list, tuple, set, frozenset, dict):
        return _shown_items(value, depth)
    return None


def detach(exc: BaseException, text: str | None = None) -> BaseException:
    """Return an exception that may be kept and shown anywhere: itself, or a `ForeignException`.

    It is itself if its text, and the texts of its causes, need no foreign code. Its frames are
    dropped, since they keep alive everything that the code used; a note names the place instead.
    `text` is the text from a worker; None: `describe`.
    """
    if not is_harmless(exc):
        return ForeignException(f"{text or describe(exc)}\n{where_raised(exc)}".rstrip())
    for one in _chain(exc):
        note = where_raised(one)
        scrub(one)
        release_frames(one)
        if note and not getattr(one, "__notes__", ()):  # the same one may be raised many times
            BaseException.add_note(one, note)
    return exc


def release_frames(exc: BaseException) -> None:
    """Drop the traceback and the context of an exception."""
    _of["__context__"].__set__(exc, None)
    _of["__traceback__"].__set__(exc, None)


def is_harmless(exc: BaseException) -> bool:
    """Return whether showing an exception, with all its causes, runs no foreign code."""
    chain = list(_chain(exc))
    return len(chain) <= _MAX_CHAIN and all(map(_is_harmless_itself, chain))


def is_kernel_error(exc: BaseException) -> bool:
    """Return whether an exception is one of the kernel's, and harmless with any causes."""
    lineage = _read["__mro__"].__get__(type(exc))
    return (
        issubclass(type(exc), KernelError)
        and all(issubclass(one, KernelError) or one in _PLAIN_BASES for one in lineage)
        and _is_harmless_itself(exc)
    )


def where_raised(exc: BaseException) -> str:
    """The innermost frames of an exception, a line each, for a log."""
    frames: list[str] = []
    trace: TracebackType | None = _of["__traceback__"].__get__(exc)
    while trace is not None:
        frames.append(_line(trace.tb_frame, trace.tb_lineno))
        del frames[:-_MAX_FRAMES]
        trace = trace.tb_next
    return "\n".join(frames)


def places_of(exc: BaseException) -> list[tuple[str, int]]:
    """The files and lines where a detached exception was raised, the innermost last."""
    attributes = _of["__dict__"].__get__(exc)
    texts = [plain_text(exc) or "", *attributes.get("__notes__", ())]
    return [(path, int(line)) for text in texts for path, line in _PLACE.findall(text)]


def pass_on(exc: BaseException) -> None:
    """Raise an interrupt (Ctrl-C) in the program, as soon as the kernel's current step has ended.

    Python interrupts the main thread only. A `KeyboardInterrupt` on another thread was raised by
    foreign code itself, and is an error of that code like any other.
    """
    if not issubclass(type(exc), KeyboardInterrupt):
        return
    if threading.current_thread() is not threading.main_thread():
        return
    try:
        asyncio.get_running_loop().call_soon(_raise_interrupt)
    except RuntimeError:  # no loop runs here, and no other call waits for this step
        raise exc from None


def log_raised(log: logging.Logger, exc: BaseException, message: str, *args: object) -> None:
    """Log what foreign code raised as an error, with where it was raised."""
    log.error("%s: %s\n%s", message % args, describe(exc), where_raised(exc))


# --- inside --------------------------------------------------------------------------------------


def _raise_interrupt() -> None:
    raise KeyboardInterrupt


def _joined(exc: BaseException, text: str | None, why: str) -> str:
    name = type_name(exc)
    if text is None:
        return f"{name} ({why})"
    return f"{name}: {redact(text)}" if text else name


def _maker_of_text(exc: BaseException) -> type | None:
    """The built-in class with the `__str__` of an exception; None if a foreign one has it."""
    for one in _read["__mro__"].__get__(type(exc)):
        if "__str__" in _read["__dict__"].__get__(one):
            maker: type = one
            return None if _read["__flags__"].__get__(maker) & _HEAP_TYPE else maker
    return None


def _text_of_args(args: tuple[object, ...]) -> str:
    if not args:
        return ""
    if len(args) > 1:
        return (shown_value(args) or "")[:MAX_CHARS]
    only = args[0]
    if type(only) is str:
        return only[:MAX_CHARS]
    return (shown_value(only) or "")[:MAX_CHARS]


def _text_of_attributes(exc: BaseException, maker: type) -> str | None:
    """The text of a built-in exception that shows more than its arguments."""
    shown = [getattr(maker, name).__get__(exc) for name in _SHOWN.get(maker, ())]
    if any(type(one) not in (str, int, type(None)) for one in shown):
        return None
    try:
        return _exact(maker.__dict__["__str__"](exc))[:MAX_CHARS]
    except Exception:  # noqa: BLE001 - it was made without its `__init__`, or changed since
        return None


def _text_of_group(group: BaseException) -> str:
    inner: tuple[BaseException, ...] = _GROUP["exceptions"].__get__(group)
    groups = [issubclass(type(one), BaseExceptionGroup) for one in inner[:_MAX_NAMED]]
    texts = [
        type_name(one) if is_group else describe(one)
        for one, is_group in zip(inner, groups, strict=False)
    ]
    more = "; ..." if len(inner) > _MAX_NAMED else ""
    message = _exact(_GROUP["message"].__get__(group))
    return f"{message[:MAX_CHARS]} ({len(inner):,} inside: {'; '.join(texts)}{more})"[:MAX_CHARS]


def _shown_items(value: Any, depth: int) -> str | None:
    if depth >= _MAX_NESTING:
        return "..."
    items: list[str] = []
    for number, one in enumerate(value):
        if number == _MAX_ITEMS or sum(map(len, items)) > MAX_CHARS:
            items.append("...")
            break
        parts = [one, value[one]] if type(value) is dict else [one]
        texts = [shown_value(part, depth + 1) for part in parts]
        if None in texts:
            return None
        items.append(": ".join(text or "" for text in texts))
    left, right = "[]" if type(value) is list else "()" if type(value) is tuple else "{}"
    return f"{left}{', '.join(items)}{right}"[: MAX_CHARS + 2]


def _rendered(exc: BaseException) -> tuple[str | None, str]:
    """The text that foreign code makes of an exception, or None and why there is none."""
    if not _renderers.acquire(timeout=RENDER_S):
        return None, "its text is not shown, since others hang that are being made"
    made: list[str] = []

    def render() -> None:
        try:
            made.append(_exact(str(exc))[:MAX_CHARS])
        finally:
            _renderers.release()

    renderer = threading.Thread(target=_silenced(render), name="aios-foreign-text", daemon=True)
    renderer.start()
    renderer.join(RENDER_S)
    if made:
        return made[0], ""
    if renderer.is_alive():
        return None, f"its text took longer than {RENDER_S:g} s"
    return None, "making its text raised"


def _silenced(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001 - foreign code; the caller sees that there is nothing
            return

    return run


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, each once, and one more than is allowed at most."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen and len(seen) <= _MAX_CHAIN:
        yield one
        seen.add(id(one))
        one = _of["__cause__"].__get__(one)


def _is_harmless_itself(exc: BaseException) -> bool:
    return (
        _is_short(exc)
        and not issubclass(type(exc), BaseExceptionGroup)
        and not _has_own_ways(type(exc))
        and _has_plain_notes(exc)
    )


def _is_short(exc: BaseException) -> bool:
    text = plain_text(exc)
    return text is not None and len(text) < MAX_CHARS and len(_of["args"].__get__(exc)) < _MAX_ITEMS


def _has_own_ways(kind: type) -> bool:
    if type(kind) is not type:
        return True  # a metaclass may do anything when a name of the class is looked up
    return any(
        _read["__flags__"].__get__(one) & _HEAP_TYPE
        and not _OWN_WAYS.isdisjoint(_read["__dict__"].__get__(one))
        for one in _read["__mro__"].__get__(kind)
    )


def _has_plain_notes(exc: BaseException) -> bool:
    attributes = _of["__dict__"].__get__(exc)
    notes = attributes.get("__notes__", ()) if type(attributes) is dict else ()
    return type(notes) in (list, tuple) and all(type(one) is str for one in notes)


def _line(frame: FrameType, number: int) -> str:
    code = frame.f_code
    path, name = _exact(code.co_filename)[-_MAX_NAME:], _exact(code.co_qualname)[:_MAX_NAME]
    return f'  File "{path}", line {number}, in {name}'


def _exact(text: str) -> str:
    """A text of exactly the class `str`, since subclasses may do what they like."""
    return str.__getitem__(text, slice(None))
