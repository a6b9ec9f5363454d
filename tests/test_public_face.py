"""Every module is public or internal, and the lint of imports knows which."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "aios_core"

# Public in addition to `aios_core` and `aios_adapters` themselves. Of a folder, its `__init__`.
PUBLIC = {
    "access",
    "cores",
    "errors",
    "kernel",
    "launch",
    "memory",
    "messages",
    "retrieval",
    "scheduler",
    "storage",
    "testing",
    "tools",
}


def forbidden() -> set[str]:
    """Return what adapters, ours and those of others, may not import."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in lint["contracts"] if "offers to everyone" in one["name"])
    assert "ignore_imports" not in contract, "there are no exceptions"
    return set(contract["forbidden_modules"])


def folders() -> set[str]:
    return {path.parent.name for path in CORE.glob("*/__init__.py")}


def modules() -> set[str]:
    """Return the names of modules and folders right below `aios_core`."""
    files = {path.stem for path in CORE.glob("*.py")} - {"__init__"}
    return files | folders()


def test_every_module_is_either_public_or_forbidden_to_adapters() -> None:
    listed = {name.removeprefix("aios_core.") for name in forbidden()} - {"aios_adapters.*"}
    internals_of_public = {f"{name}.*" for name in PUBLIC & folders()}

    assert modules() >= PUBLIC
    assert listed == (modules() - PUBLIC) | internals_of_public


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_module_lists_what_it_offers(name: str) -> None:
    module = CORE / name / "__init__.py"
    if not module.exists():
        module = CORE / f"{name}.py"
    text = module.read_text()

    assert text.startswith('"""')
    assert "__all__" in text or name == "errors"
