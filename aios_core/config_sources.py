"""Where a configuration comes from: which file is in force, and which keys variables set."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final

from aios_core.config_decoder import field_hints
from aios_core.errors import ConfigError
from aios_core.suggestions import suggest

CONFIG_FILE: Final = "aios.toml"

# Variables that are not keys of the tree: where the file is, what a terminal shows, and the
# one-line ways to point at a real model (see `_core_from_environment`).
OTHER_VARIABLES: Final = (
    "AIOS_API_KEY",
    "AIOS_BASE_URL",
    "AIOS_CONFIG",
    "AIOS_DEBUG",
    "AIOS_MODEL",
    "AIOS_QUIET",
)


def find_config_file(
    path: str | Path | None = None, *, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The file in force: `path`, else $AIOS_CONFIG, else ./aios.toml, else the user's own.

    None if nothing was named and neither of the last two exists. Raises `ConfigError`
    if one was named and is not there.
    """
    environ = os.environ if environ is None else environ
    named, source = (path, "an argument") if path else (environ.get("AIOS_CONFIG"), "AIOS_CONFIG")
    if named:
        if not isinstance(named, str | Path):
            raise ConfigError("configuration file", named, "a path", source)
        try:
            file = Path(named).expanduser()
            is_there = file.is_file()
        except (OSError, RuntimeError, ValueError):  # too long, or of a user that there is not
            is_there = False
        if not is_there:
            raise ConfigError("configuration file", str(named), "a file that exists", source)
        return file
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    places = (Path(CONFIG_FILE), Path(home).expanduser() / "aios" / CONFIG_FILE)
    return next((file for file in places if file.is_file()), None)


def read_config_file(file: Path) -> dict[str, Any]:
    """Read a TOML file. Raises `ConfigError`."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(str(file), str(exc), "valid TOML, see https://toml.io") from exc
    except OSError as exc:
        raise ConfigError(str(file), exc.strerror, "a file that can be read") from exc


def keys_of(variable: str, environ: Mapping[str, str], tree: type) -> list[str]:
    """Return the keys that a variable sets; none, if it belongs to another program.

    A name without ``__`` that is not a key belongs to another program, unless it looks like a slip.
    Raises `ConfigError` for a slip.
    """
    known = {f"AIOS_{name.upper()}" for name in field_hints(tree)}
    if variable in known or "__" in variable:
        return variable.removeprefix("AIOS_").lower().split("__")
    similar = suggest(variable, sorted(known.union(OTHER_VARIABLES)))
    if hint := _meant_key(variable, tree) or similar:
        raise ConfigError(variable, environ[variable], f"no such key; {hint}", "the environment")
    return []


def _meant_key(variable: str, tree: type) -> str:
    """A phrase that names a table's key which was written with one ``_``; empty if it is none."""
    for name, hint in field_hints(tree).items():
        prefix = f"AIOS_{name.upper()}_"
        key = variable.removeprefix(prefix).lower()
        if variable.startswith(prefix) and is_dataclass(hint) and key in field_hints(hint):  # type: ignore[arg-type]
            return f"did you mean '{prefix}_{key.upper()}', with two underscores?"
    return ""


def nested(keys: list[str], value: str) -> dict[str, Any]:
    """Wrap a value in tables, one for each key."""
    nested: Any = value if keys else {}
    for key in reversed(keys):
        nested = {key: nested}
    return nested  # type: ignore[no-any-return]
