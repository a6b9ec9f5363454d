"""Programming problems that a user brings, in HumanEval's form, and how they are judged.

A file has one JSON object a line: `task_id`, `prompt` (the head of a function with its
docstring), `entry_point` (its name) and `test` (which defines `check(candidate)`). Nothing of
the kind comes with AIOS. Code that a model wrote runs in the sandbox, or not at all.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aios_core import InvalidRequest
from aios_core.tools.sandbox import ExecutionResult, Sandbox
from compat_bench.tasks import Task

KIND: Final = "programming problem"
_KEYS: Final = ("task_id", "prompt", "entry_point", "test")
_ASK: Final = "Complete this function. Answer with Python code alone.\n\n```python\n{}\n```"
_FENCE: Final = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a file."""

    task_id: str
    prompt: str
    entry_point: str
    test: str

    def to_task(self) -> Task:
        """Build the task for an agent. There is no known right answer."""
        return Task(self.task_id, KIND, (_ASK.format(self.prompt.rstrip()),), (), (), ("",))

    def program(self, completion: str, token: str) -> str:
        """Build the program: the candidate, its test, and a token printed only at the end."""
        candidate = code_in(completion)
        if f"def {self.entry_point}" in candidate:
            head = self.prompt.partition(f"def {self.entry_point}")[0]  # its imports
        else:
            head = self.prompt  # a body, which continues where the prompt ends
        return f"{head}{candidate}\n\n{self.test}\n\ncheck({self.entry_point})\nprint({token!r})\n"


def read_problems(path: Path) -> list[Problem]:
    """The problems of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not a problem; the message names it.
    """
    return list(_problems(path))


def _problems(path: Path) -> Iterator[Problem]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            if not isinstance(raw, dict):
                raise TypeError(f"got {type(raw).__name__}; allowed: an object")  # noqa: TRY301
            yield Problem(*(str(raw[key]) for key in _KEYS))
        except KeyError as exc:
            raise ValueError(f"{path}, line {number}: {exc} is missing; needed: {_KEYS}") from exc
        except (ValueError, TypeError) as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from exc


def code_in(completion: str) -> str:
    """The code of an answer: its first fenced block, or all of it."""
    found = _FENCE.search(completion)
    return found[1] if found else completion


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a candidate's test, with its last output if it failed."""

    is_passed: bool
    said: str = ""


async def judge(sandbox: Sandbox, problem: Problem, completion: str) -> Verdict:
    """Run a candidate against its test.

    Raises:
        SandboxUnavailable: nothing here confines it.
    """
    token = secrets.token_hex(16)
    try:
        result = await sandbox.run("python", problem.program(completion, token))
    except InvalidRequest as exc:
        return Verdict(False, str(exc))
    if result.is_ok and result.stdout.rstrip().endswith(token):
        return Verdict(True)
    return Verdict(False, _complaint(result))


def _complaint(result: ExecutionResult) -> str:
    if result.killed_by:
        return f"stopped by a limit: {result.killed_by}"
    lines = result.stderr.strip().splitlines()
    return lines[-1][:200] if lines else "it ended before its test did"
