"""Promise 4: importing reads no file, opens no socket, starts no thread and loads nothing heavy."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

# Reads that belong to importing itself: code, and what a zip or a package's metadata needs.
PROGRAM = """
import json, sys, threading

CODE = (".py", ".pyc", ".so", ".pyd")
opened, sockets, processes = [], [], []

def watch(event, arguments):
    if event == "open":
        path, mode = str(arguments[0]), arguments[1]
        is_write = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        is_cache = ".pyc" in path and "__pycache__" in path
        if not is_cache and (is_write or not path.endswith(CODE)):
            opened.append(path)
    elif event.startswith("socket."):
        sockets.append(event)
    elif event in ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn", "os.system"):
        processes.append(event)

sys.addaudithook(watch)
before = set(sys.modules)
{statement}
print(json.dumps({{
    "opened": opened,
    "sockets": sockets,
    "processes": processes,
    "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
    "modules": sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}),
    "tasks": "asyncio" in sys.modules
        and sys.modules["asyncio"].events._get_running_loop() is not None,
}}))
"""

ML_LIBRARIES = {"llguidance", "numpy", "safetensors", "tokenizers", "torch", "transformers"}
CLIENTS = {"anthropic", "httpx", "openai"}
FRAMEWORKS = {
    "agent_framework",
    "autogen",
    "autogen_agentchat",
    "autogen_aios",
    "autogen_core",
    "interpreter",
    "langchain",
    "langchain_aios",
    "langchain_core",
    "langchain_openai",
    "langgraph",
    "llama_index",
}


@pytest.fixture(
    scope="module",
    params=[
        "from aios_core import *",
        "import aios_core.cores",
        "import aios_core.testing",
        "import aios_core.cli",
        "import aios_adapters",
    ],
)
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Import the package in a fresh interpreter. Returns what that observed."""
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PROGRAM.format(statement=request.param)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_importing_reads_and_writes_no_file(seen: dict[str, Any]) -> None:
    assert seen["opened"] == []


def test_importing_opens_no_socket(seen: dict[str, Any]) -> None:
    assert seen["sockets"] == []


def test_importing_starts_no_thread_loop_or_process(seen: dict[str, Any]) -> None:
    assert (seen["threads"], seen["tasks"], seen["processes"]) == ([], False, [])


@pytest.mark.parametrize("forbidden", [ML_LIBRARIES, CLIENTS, FRAMEWORKS])
def test_importing_loads_no_ml_library_no_client_and_no_framework(
    forbidden: set[str], seen: dict[str, Any]
) -> None:
    assert forbidden.intersection(seen["modules"]) == set()


@pytest.mark.parametrize(
    "adapter",
    [
        "autogen/autogen_aios",
        "langchain/langchain_aios",
        "llamaindex/llama_index_aios",
        "open_interpreter/open_interpreter_aios",
    ],
)
def test_importing_an_adapter_and_its_launcher_loads_no_framework_and_no_client(
    adapter: str,
) -> None:
    folder, package = adapter.split("/")
    path = str(
        Path(__file__).resolve().parent.parent / "adapters" / folder
    )  # not all are installed
    statement = f"sys.path.insert(0, {path!r}); import {package}.launcher"

    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )

    modules = set(json.loads(ended.stdout)["modules"])
    assert package in modules
    assert modules & ((ML_LIBRARIES | CLIENTS | FRAMEWORKS | {"litellm"}) - {package}) == set()


def test_the_guards_see_what_they_guard_against(tmp_path: Any) -> None:
    (tmp_path / "guilty.py").write_text(
        "import socket, threading, time\n"
        "open(__file__.replace('guilty.py', 'note.txt'), 'w').close()\n"
        "socket.socket().close()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True, name='left').start()\n"
    )
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + PROGRAM

    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program.format(statement="import guilty")],
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(ended.stdout)
    assert found["opened"] == [str(tmp_path / "note.txt")]
    assert found["sockets"] == ["socket.__new__"]
    assert found["threads"] == ["left"]


def test_every_name_that_the_package_offers_is_there() -> None:
    import aios_core  # noqa: PLC0415

    assert [name for name in aios_core.__all__ if not hasattr(aios_core, name)] == []
    assert len(set(aios_core.__all__)) == len(aios_core.__all__)


def test_the_table_of_public_names_agrees_with_what_type_checkers_read() -> None:
    import aios_core  # noqa: PLC0415

    tree = ast.parse(Path(aios_core.__file__).read_text())
    guarded = next(one for one in tree.body if isinstance(one, ast.If))
    read = {
        alias.name: (node.module or "").removeprefix("aios_core.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert read == aios_core._MODULES
    assert set(aios_core.__all__) == read.keys()


def test_no_module_of_the_package_has_the_name_of_something_public() -> None:
    import aios_core  # noqa: PLC0415

    modules = {module.name for module in pkgutil.iter_modules(aios_core.__path__)}

    assert modules & set(aios_core.__all__) == set()


def test_importing_the_package_alone_loads_none_of_its_modules() -> None:
    program = (
        "import sys, aios_core\n"
        "print(sorted(name for name in sys.modules if name.startswith('aios_core.')))\n"
        "print(aios_core.errors.__name__, hasattr(aios_core, 'no_such_name'))\n"
    )

    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ended.stdout.splitlines() == ["[]", "aios_core.errors False"]


# --- circles --------------------------------------------------------------------------------------


def _imports_of(body: list[ast.stmt]) -> set[str]:
    """Names that a module imports when it is loaded or type-checked, not within functions."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.If | ast.Try):
            found |= _imports_of(node.body) | _imports_of(node.orelse)
    return found


def test_no_modules_import_one_another_in_a_circle_not_even_for_types() -> None:
    root = Path(__file__).resolve().parent.parent
    modules = {
        ".".join(file.relative_to(place).with_suffix("").parts): file
        for place, package in ((root, "aios_core"), (root / "adapters/common", "aios_adapters"))
        for file in (place / package).rglob("*.py")
        if file.name != "__init__.py"
    }
    graph = {
        module: (_imports_of(ast.parse(file.read_text()).body) & modules.keys()) - {module}
        for module, file in modules.items()
    }
    assert sum(map(len, graph.values())) > len(modules), "nothing was found"
    tuple(TopologicalSorter(graph).static_order())  # raises `CycleError` with the circle
