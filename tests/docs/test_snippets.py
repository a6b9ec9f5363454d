"""Every snippet of the documentation runs, or is decoded, or names what it needs.

- `python` blocks run in page order, in one namespace, in an empty folder.
- A `text` block right below a `python` block is its output; `...` stands for what varies.
- `toml` blocks are decoded: as a configuration, an access policy, or a project's entry points.
- `sh` blocks are checked line by line: commands, options, variables, extras and paths exist.
- A block below `<!-- needs: ... -->` needs what a machine may lack. It is only compiled, unless
  `HERE` finds that this machine has it. Such blocks are counted in `CONDITIONAL`.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import pytest

import aios_core
from aios_core import KernelConfig, set_default_kernel
from aios_core.access.policy.file import parse_policy
from aios_core.access.policy.rules import Policy
from aios_core.cli import parser_of
from aios_core.config_sources import OTHER_VARIABLES
from tests.example_packages import install_examples

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_generate" not in page.parts
)


def _has_bubblewrap() -> bool:
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


# Whether this machine has what a block needs; all else is taken as missing.
HERE = {"sandbox": _has_bubblewrap}

# The page, what its blocks need, and how many such blocks there are.
CONDITIONAL: dict[tuple[str, str], int] = {
    ("docs/how-to/open-interpreter.md", "open-interpreter"): 2,  # its adapter's tests run them
    ("docs/how-to/run-untrusted-code.md", "sandbox"): 3,
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    source: str
    line: int  # of its first line, from 1
    needs: str | None = None
    is_output: bool = False  # right below a block of Python


_FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^>]+?) -->\n)?```(?P<language>\w*)\n(?P<source>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        follows_python = bool(found) and found[-1].language == "python"
        found.append(
            Block(
                match["language"],
                match["source"],
                text.count("\n", 0, match.start("source")) + 1,
                match["needs"],
                is_output=match["language"] == "text"
                and follows_python
                and not text[end : match.start()].strip(),
            )
        )
        end = match.end()
    return found


# --- Python ---------------------------------------------------------------------------------------


@pytest.fixture
def empty_place(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder, a state of its own, and no kernel or patch that outlives the page."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AIOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIOS_QUIET", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "never sent")  # clients "before" are made, not asked
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", ":memory:")
    install_examples(monkeypatch, tmp_path_factory.mktemp("site"))
    former = set_default_kernel(None)
    yield tmp_path
    aios_core.uninstall()
    used = set_default_kernel(former)
    if used is not None:
        used.close(0)


def run_python(page: str) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None
    for block in blocks_of(page):
        if block.is_output and printed is not None:
            require_output(block, printed, page)
        if block.language != "python":
            continue
        code = compile("\n" * (block.line - 1) + block.source, page, "exec")
        printed = _run(code, names) if is_met(block.needs) else None


def is_met(need: str | None) -> bool:
    return need is None or (need in HERE and HERE[need]())


def _run(code: CodeType, names: dict[str, object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)  # noqa: S102 - our own pages
    return out.getvalue()


def require_output(block: Block, printed: str, page: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    matches = doctest.OutputChecker().check_output(block.source, printed, options)
    assert matches, f"{page}:{block.line} shows\n{block.source}\nbut this is printed:\n{printed}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("empty_place")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks_of(page))]
)
def test_the_python_of_a_page_runs(page: str) -> None:
    run_python(page)


def test_blocks_that_may_not_run_are_counted() -> None:
    found: dict[tuple[str, str], int] = {}
    for page in PAGES:
        for block in blocks_of(page):
            if block.needs:
                found[page, block.needs] = found.get((page, block.needs), 0) + 1

    assert found == CONDITIONAL


def test_every_block_has_a_language_that_is_checked() -> None:
    known = {"python", "toml", "sh", "text", "json", "mermaid", "yaml"}

    assert {(p, b.line, b.language) for p in PAGES for b in blocks_of(p)} == {
        (p, b.line, b.language) for p in PAGES for b in blocks_of(p) if b.language in known
    }


# --- TOML -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_place")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "toml" for b in blocks_of(page))]
)
def test_the_toml_of_a_page_is_accepted(page: str) -> None:
    for block in blocks_of(page):
        if block.language != "toml":
            continue
        tree = tomllib.loads(block.source)
        if "project" in tree:
            require_entry_points(tree["project"])
        elif "rules" in tree:
            parse_policy(block.source, Policy(), source=page)
        else:
            Path("shown.toml").write_text(block.source, "utf-8")
            KernelConfig.load("shown.toml", environ={})


def require_entry_points(project: dict[str, dict[str, object]]) -> None:
    groups = {f"aios.{kind}" for kind in ("commands", "demo_agents", "launchers", "plugins")}
    groups |= {"aios.cores", "aios.policies"}
    assert project.get("entry-points", {}).keys() <= groups


# --- shell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "sh" for b in blocks_of(page))]
)
def test_the_commands_of_a_page_exist(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "sh" and not block.needs:
            for line in block.source.replace("\\\n", " ").splitlines():
                require_command(line, f"{page}:{block.line}")


def require_command(line: str, place: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    variables = [word for word in words if re.match(r"[A-Z][A-Z0-9_]*=", word)]
    command = [word for word in words if word not in variables]
    require_variables(variables, place)
    if command:
        check = _COMMANDS.get(re.sub(r"^\.venv[\w-]*/bin/", "", command[0]))
        assert check, f"{place}: {command[0]!r} is not checked; say what it <!-- needs: ... -->"
        check(command[1:], place)


def require_variables(variables: list[str], place: str) -> None:
    ours = dict(one.split("=", 1) for one in variables if one.startswith("AIOS_"))
    keys = {name: value for name, value in ours.items() if name not in OTHER_VARIABLES}
    try:
        KernelConfig.load(environ={k: v for k, v in keys.items() if v})
    except aios_core.ConfigError as error:
        raise AssertionError(f"{place}: {error}") from error


def _require_aios(words: list[str], place: str) -> None:
    parser, commands = parser_of(words[:1], {})
    if not words or words[0].startswith("-"):
        assert words[:1] in ([], ["--help"], ["--version"]), f"{place}: aios {words}"
        return
    assert words[0] in commands, f"{place}: aios has no command {words[0]!r}"
    if words[0] == "demo" or "-h" in words or "--help" in words:
        return
    try:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            _, unknown = parser.parse_known_args(words)
    except SystemExit:
        unknown = [err.getvalue()]
    assert not unknown, f"{place}: aios {words}: {unknown}"


def _require_make(words: list[str], place: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{place}: {target}"


def _require_pip(words: list[str], place: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in words[1:]:
        path, _, asked = word.partition("[")
        if path.startswith("."):
            project = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
            have = extras if path == "." else project.get("optional-dependencies", {})
            assert set(filter(None, asked.rstrip("]").split(","))) <= have.keys(), (
                f"{place}: {word}"
            )


def _require_python(words: list[str], place: str) -> None:
    if words[:1] == ["-m"]:
        path = words[1].replace(".", "/")
        known = (
            (ROOT / path).is_dir() or (ROOT / f"{path}.py").exists() or words[1] in ("pip", "venv")
        )
        assert known, f"{place}: python -m {words[1]}"
    elif "/" in words[0]:
        assert (ROOT / words[0]).exists(), f"{place}: {words[0]}"


def _accept(words: list[str], place: str) -> None:
    del words, place


_COMMANDS = {
    "aios": _require_aios,
    "cd": _accept,
    "eval": _accept,
    "export": _accept,
    "git": _accept,
    "make": _require_make,
    "pip": _require_pip,
    "pytest": _accept,
    "python": _require_python,
}
