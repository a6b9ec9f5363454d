"""`python -m aios_core.tools.process_main`: the process that runs tools for a kernel.

It reads a question a line from standard input and writes an answer a line to standard output,
both JSON. Output of the tool is discarded. When the kernel's end of the pipe closes, because
the kernel has ended, a thread ends this process even while the tool runs.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import IO, Any

from aios_core.errors import InvalidArguments, KernelError, ToolError
from aios_core.tools.attempt import call, describe_failure
from aios_core.tools.context import ToolContext
from aios_core.tools.function_origin import find
from aios_core.tools.import_code import load_file, load_module, tools_of
from aios_core.tools.strict_json import dump, parse, plain
from aios_core.tools.tool import Tool
from aios_core.tools.validation import ArgumentSchema
from aios_core.untrusted.third_party import describe_on_worker

MAX_QUESTION_BYTES = 64 << 20
MAX_CHECK_BYTES = 2 << 30  # of address space


def main() -> None:
    """Answer questions until standard input is closed."""
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    asked = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    threading.Thread(target=_listen, args=(asked, questions), daemon=True).start()
    source = Source()
    while True:
        answer = _answer(questions.get(), source)
        answers.write(_encoded(answer) + b"\n")
        answers.flush()


def _value(question: dict[str, Any], source: Source) -> Any:
    match question:
        case {"ready": _}:
            return None
        case {"load": loaded}:
            return source.load(**loaded)
        case {"check": check}:
            return _checked(**check)
        case _:
            return _run(question, source)


def _run(question: dict[str, Any], source: Source) -> Any:
    tool = source.find(question)
    given = question["context"]
    context = ToolContext(**{**given, "labels": frozenset(given["labels"])})
    return plain(call(tool, question["arguments"], context))


def _encoded(answer: dict[str, Any]) -> bytes:
    try:
        return dump(answer)
    except BaseException:  # noqa: BLE001 - an error may hold any objects of the tool
        return dump({"error": "raised an error that cannot be encoded as JSON"})


def _listen(asked: IO[bytes], questions: queue.SimpleQueue[bytes]) -> None:
    try:
        for line in asked:
            questions.put(line)
    finally:  # the kernel has ended, or the tool has closed all descriptors
        os._exit(0)


class Source:
    """The module that this process has loaded, and its tools."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._tools: dict[tuple[str, str], Tool] | None = None  # of the module's hook

    def load(self, module: str, path: str, digest: str) -> None:
        """Run a file, or import a module. Raises a `KernelError` if that fails."""
        self._module = load_file(path, expected=digest) if path else load_module(module)

    def find(self, question: Mapping[str, Any]) -> Tool:
        """Return the tool of a question. Raises `ToolError` if the module does not offer it."""
        if self._module is None:
            raise ToolError(question["tool"], "its process has loaded nothing")
        if question["attribute"]:
            found = find(self._module, question["attribute"])
            return found if isinstance(found, Tool) else _as_tool(found, question)
        if self._tools is None:
            self._tools = {(one.name, one.version): one for one in tools_of(self._module)}
        tool = self._tools.get((question["tool"], question["version"]))
        if tool is None:
            raise ToolError(question["tool"], "is not offered when its module is loaded again")
        return tool


def _checked(
    tool: str, schema: Mapping[str, Any], value: Mapping[str, Any], repairs: bool
) -> Mapping[str, Any]:
    """Check a value against a schema, within a memory limit for the whole process.

    Processes that check values run no tools, so the kernel can kill one that takes too long.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_CHECK_BYTES, MAX_CHECK_BYTES))
    return ArgumentSchema(tool, schema).validate(value, repairs=repairs)


def _as_tool(function: Any, question: Mapping[str, Any]) -> Tool:
    return Tool(
        question["tool"],
        "",
        {},
        function,
        question["version"],
        context_name=question["context_name"],
    )


def _answer(line: bytes, source: Source) -> dict[str, Any]:
    try:
        question = parse(line, MAX_QUESTION_BYTES)
        return {"value": _value(question, source)}
    except InvalidArguments as exc:
        return {"faults": exc.faults}
    except ToolError as exc:
        return {"error": str(exc.message)}
    except KernelError as exc:
        return {"error": describe_on_worker(exc)}
    except BaseException as exc:  # noqa: BLE001 - the kernel reports it to the caller
        return {"error": describe_failure(exc)}


if __name__ == "__main__":
    sys.modules["aios_core.tools.process_main"] = sys.modules["__main__"]
    main()
