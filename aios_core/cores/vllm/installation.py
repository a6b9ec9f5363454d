"""Find out which version of vLLM an interpreter has, without importing it there (10 seconds)."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aios_core.errors import ModelLoadError
from aios_core.shielding import finish_shielded

ASK_S: Final = 30.0  # an interpreter on a slow disk starts within that
# `find_spec` of a package that is not a submodule runs none of its code.
_QUESTION: Final = """
import importlib.util, json, os, sys
spec = importlib.util.find_spec("vllm")
text = ""
for place in (spec.submodule_search_locations or ()) if spec else ():
    path = os.path.join(place, "_version.py")
    if os.path.exists(path):
        text = open(path, encoding="utf-8").read()
print(json.dumps({"has": spec is not None, "text": text}))
"""
_VERSION: Final = re.compile(r"""\bversion\s*=\s*['"]v?(\d+)\.(\d+)""")
NEWEST: Final = (10**6, 0)  # of a build that does not state its version, such as one from source


@dataclass(frozen=True, slots=True)
class Installation:
    """An interpreter that has vLLM."""

    python: str
    version: tuple[int, int]  # major and minor


async def find_installation(python: str, environment: Mapping[str, str]) -> Installation:
    """Ask an interpreter for its vLLM. Raises `ModelLoadError` if it has none."""
    answer = await _ask(python, environment)
    if not answer.get("has"):
        raise ModelLoadError(
            f"python: {python!r} has no vLLM; install it there with: {python} -m pip install vllm"
        )
    return Installation(python, parse_version(str(answer.get("text", ""))))


def parse_version(text: str) -> tuple[int, int]:
    """Return major and minor version from vLLM's `_version.py`; `NEWEST` if it has none."""
    found = _VERSION.search(text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return NEWEST if version <= (0, 1) else version  # "0.1.dev1": built without its history


async def _ask(python: str, environment: Mapping[str, str]) -> dict[str, object]:
    allowed = "allowed: the interpreter of an environment with vLLM, such as .venv-vllm/bin/python"
    try:
        asked = await asyncio.create_subprocess_exec(
            *(python, "-c", _QUESTION),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            env=dict(environment),
        )
    except OSError as exc:
        raise ModelLoadError(f"python: got {python!r} ({exc.strerror}); {allowed}") from exc
    try:
        async with asyncio.timeout(ASK_S):
            out, _ = await asked.communicate()
        answer = json.loads(out)
    except (TimeoutError, ValueError) as exc:
        raise ModelLoadError(f"python: {python!r} does not run Python code; {allowed}") from exc
    finally:
        if asked.returncode is None:
            asked.kill()
            await finish_shielded(asked.wait())
    return answer if isinstance(answer, dict) else {}
