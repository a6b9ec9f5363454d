"""`python -m aios_core.tools.worker`: runs one kind of tool for a kernel that can kill it.

A question a line on standard input, an answer a line on standard output, both JSON.
What the tool prints goes nowhere. When the kernel's end of the pipe closes, because
the kernel is gone, a thread ends this process, whatever the tool does.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import IO, Any

from aios_core.errors import InvalidArguments, KernelError
from aios_core.tools.code import load_file, load_module, tools_of
from aios_core.tools.context import ToolContext
from aios_core.tools.running import call, said
from aios_core.tools.strict_json import dump, parse, plain
from aios_core.tools.tool import Tool

MAX_QUESTION_BYTES = 64 << 20


def main() -> None:
    """Answer questions until there are no more."""
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    source = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    threading.Thread(target=_listen, args=(source, questions), daemon=True).start()
    tools: dict[tuple[str, str], Tool] = {}
    while True:
        answer = _answer(questions.get(), tools)
        answers.write(dump(answer) + b"\n")
        answers.flush()


def _listen(source: IO[bytes], questions: queue.SimpleQueue[bytes]) -> None:
    for line in source:
        questions.put(line)
    os._exit(0)


def _answer(line: bytes, tools: dict[tuple[str, str], Tool]) -> dict[str, Any]:
    try:
        question = parse(line, MAX_QUESTION_BYTES)
        if not tools:
            if question["path"]:
                module = load_file(question["path"], expected=question["digest"])
            else:
                module = load_module(question["module"])
            tools.update({(one.name, one.version): one for one in tools_of(module)})
        tool = tools[question["tool"], question["version"]]
        given = question["context"]
        context = ToolContext(**{**given, "labels": frozenset(given["labels"])})
        return {"value": plain(call(tool, question["arguments"], context))}
    except InvalidArguments as exc:
        return {"faults": exc.faults}
    except KernelError as exc:
        return {"error": str(exc)}
    except BaseException as exc:  # noqa: BLE001 - it is the caller's, who reads it there
        return {"error": said(exc)}


if __name__ == "__main__":
    sys.modules["aios_core.tools.worker"] = sys.modules["__main__"]
    main()
