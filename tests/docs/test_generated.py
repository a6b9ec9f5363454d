"""The generated parts of the documentation list all that there is.

That they are up to date is checked by `make check-static`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from aios_core import EventKind
from aios_core.cli import main
from aios_core.config import OTHER_VARIABLES
from aios_core.errors import __all__ as error_names
from aios_core.syscalls import known_kinds

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
MODULES = (
    "api_pages",
    "config_page",
    "entry_points_page",
    "events_page",
    "regions",
    "syscalls_page",
)


@pytest.fixture(scope="module")
def generate() -> Iterator[dict[str, ModuleType]]:
    """The modules that write the pages."""
    folder = str(ROOT / "docs" / "_generate")
    sys.path.insert(0, folder)
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(folder)


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def test_every_kind_of_request_is_on_the_page(generate: dict[str, ModuleType]) -> None:
    kinds = generate["syscalls_page"].requests_by_kind()

    assert [kind for kind in kinds if f"| `{kind}`" not in page("syscalls.md")] == []
    assert known_kinds() >= kinds.keys()


def test_every_kind_says_what_it_needs(generate: dict[str, ModuleType]) -> None:
    tables = [
        generate["syscalls_page"].syscalls(one) for one in generate["syscalls_page"].managers()
    ]

    assert [
        row for one in tables for row in one.splitlines() if "that of the question" in row
    ] == []


def test_every_event_is_on_the_page() -> None:
    assert [kind for kind in EventKind if f"EventKind.{kind.name}`" not in page("events.md")] == []


def test_every_error_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", page("errors.md"), re.MULTILINE)

    assert sorted({*rows, "KernelError", "ProviderReply"}) == sorted(error_names)


def test_every_key_of_the_configuration_is_on_the_page(generate: dict[str, ModuleType]) -> None:
    keys = [key.name for key in generate["config_page"].all_keys()]
    rows = re.findall(r"^\| `([\w.\[\]]+)`(?:<br>| \|)", page("config.md"), re.MULTILINE)

    assert len(keys) > 100
    assert sorted(rows) == sorted([*keys, *OTHER_VARIABLES])


def test_every_group_of_entry_points_is_on_the_page(generate: dict[str, ModuleType]) -> None:
    groups = generate["entry_points_page"].groups_in_code()

    assert groups >= {"aios.commands", "aios.launchers", "aios.plugins"}
    assert [group for group in groups if f"`{group}`" not in page("entry-points.md")] == []


def test_every_command_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    (\w+)  ", capsys.readouterr().out, re.MULTILINE)

    assert listed
    assert [name for name in listed if f"## `aios {name}`" not in page("cli.md")] == []


def test_every_public_name_is_described_on_exactly_one_page(
    generate: dict[str, ModuleType],
) -> None:
    api = generate["api_pages"]
    described = [
        name
        for path in (REFERENCE / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", path.read_text("utf-8"), re.MULTILINE)
    ]
    public = {
        f"{api.home_of(namespace, name)}.{name}"
        for namespace, module in api.namespaces().items()
        for name in module.__all__
    }

    assert sorted(described) == sorted(public)


def test_a_region_is_written_between_its_marks(generate: dict[str, ModuleType]) -> None:
    text = "a\n<!-- generated: two x -->\nold\n<!-- generated: end -->\nb\n"

    written = generate["regions"].refresh(text, {"two": lambda one: f"{one}\n{one}"})

    expected = "a\n<!-- generated: two x -->\n\nx\nx\n\n<!-- generated: end -->\nb\n"
    assert written == expected
    assert generate["regions"].refresh(written, {"two": lambda one: f"{one}\n{one}"}) == expected


def test_a_region_that_nothing_writes_is_refused(generate: dict[str, ModuleType]) -> None:
    with pytest.raises(Exception, match="'nothing'; known: two"):
        generate["regions"].refresh(
            "<!-- generated: nothing -->\n<!-- generated: end -->", {"two": str}
        )
