"""Public methods are typed to the last argument: editors show them, type checkers check them."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import aios_core
import aios_core.access
import aios_core.cores
import aios_core.memory
import aios_core.scheduler
import aios_core.storage
import aios_core.testing
import aios_core.tools
from aios_core import KernelConfig, Sampling, Tool, build_llm_request
from aios_core.config import ConfigOptions
from aios_core.options import ChildOptions, RequestOptions, SamplingOptions, SpawnOptions
from aios_core.tools import ToolDeclaration

HERE = Path(__file__).parent
NAMESPACES = (
    aios_core,
    aios_core.access,
    aios_core.cores,
    aios_core.memory,
    aios_core.scheduler,
    aios_core.storage,
    aios_core.testing,
    aios_core.tools,
)

# Their further arguments are those of the operation that is asked about: any name, any value.
OPEN_BY_NATURE = {f"AccessHandle.{name}" for name in ("check", "acheck", "ask", "aask")}


def mypy(folder: Path) -> list[tuple[str, int, str]]:
    """Check the programs of a folder. Returns the file, the line and the code of each error."""
    # The cache is the project's own: an earlier check of the library has done most of the work.
    done = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-m", "mypy", "--no-error-summary", str(folder)],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"(\w+\.py):(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert len(found) == done.stdout.count(": error: "), done.stdout
    return sorted((file, int(line), code) for file, line, code in found)


@pytest.mark.timeout(400)  # without a cache, mypy reads the whole library
def test_a_type_checker_accepts_a_program_and_refuses_each_mistake() -> None:
    lines = (HERE / "typed" / "refused.py").read_text(encoding="utf-8").splitlines()
    marked = [
        ("refused.py", number, line.split("  # ")[1])
        for number, line in enumerate(lines, 1)
        if "  # " in line
    ]
    assert mypy(HERE / "typed") == marked


def callables_of(namespaces: Iterable[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for namespace in namespaces:
        for name in namespace.__all__:
            thing = getattr(namespace, name)
            if inspect.isfunction(thing):
                yield name, thing
            elif inspect.isclass(thing) and not issubclass(thing, BaseException):
                for method, function in vars(thing).items():
                    function = getattr(function, "__func__", function)  # noqa: PLW2901
                    if inspect.isfunction(function) and (method == "__init__" or method[0] != "_"):
                        yield f"{name}.{method}", function


def test_no_public_callable_takes_arguments_that_nobody_can_see() -> None:
    untyped = {
        name
        for name, function in callables_of(NAMESPACES)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.VAR_KEYWORD and parameter.annotation == "Any"
    }
    assert untyped == OPEN_BY_NATURE


def names_of(options: type) -> set[str]:
    return set(get_type_hints(options))


def test_typed_options_are_those_that_are_taken() -> None:
    build = inspect.signature(build_llm_request).parameters
    named = {name for name, at in build.items() if at.kind is at.KEYWORD_ONLY}
    sampling = {item.name for item in fields(Sampling)} - {"stop"}
    assert names_of(SamplingOptions) == sampling
    assert names_of(RequestOptions) == named | sampling
    spawn = {*inspect.signature(aios_core.Kernel.spawn).parameters} - {"self", "name"}
    assert names_of(SpawnOptions) == spawn
    assert names_of(ChildOptions) == spawn - {"parent"}
    assert names_of(ConfigOptions) == {item.name for item in fields(KernelConfig)}
    made = {"name", "description", "parameters", "function", "context_name"}
    assert names_of(ToolDeclaration) == {item.name for item in fields(Tool)} - made


def test_typed_options_have_the_types_of_the_fields_they_become() -> None:
    for options, table in ((SamplingOptions, Sampling), (ToolDeclaration, Tool)):
        theirs = get_type_hints(table)
        assert {name: theirs[name] for name in names_of(options)} == get_type_hints(options)


# What reads like `chat` and `complete`, past LlamaIndex's callbacks, takes what they take.
LIKE_THE_FRAMEWORKS = {
    f"{prefix}{name}"
    for prefix in ("", "a")
    for name in ("answer", "answer_prompt", "stream_steps", "stream_prompt_steps")
}


@pytest.mark.parametrize(
    "module",
    [
        "autogen_aios",
        "autogen_aios.agent_framework",
        "autogen_aios.classic",
        "langchain_aios",
        "llama_index.embeddings.aios",
        "llama_index.llms.aios",
        "llama_index.storage.chat_store.aios",
        "llama_index.vector_stores.aios",
    ],
)
def test_an_adapter_leaves_open_only_what_its_framework_leaves_open(module: str) -> None:
    adapter = pytest.importorskip(module)
    classes = {name: getattr(adapter, name) for name in adapter.__all__}

    def is_the_frameworks(name: str) -> bool:
        owner, _, method = name.partition(".")
        bases = inspect.getmro(classes[owner])[1:] if method else ()
        return method in LIKE_THE_FRAMEWORKS or any(
            method in vars(base) for base in bases if "aios" not in base.__module__
        )

    open_ended = {
        name
        for name, function in callables_of([adapter])
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.VAR_KEYWORD and parameter.annotation in ("Any", Any)
    }
    assert {name for name in open_ended if not is_the_frameworks(name)} == set()
