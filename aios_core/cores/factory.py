"""From the configuration to cores that can be started.

A kind of core is one row of `_KINDS`. Its library is imported when a core of that
kind is built, and not before; one that is not installed is named, with what
installs it. No model is loaded and no endpoint reached here: that is `Core.start`'s
work. A recording is read.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TextIO, get_args

from aios_core.config import CoreConfig
from aios_core.config_decoder import Place, decode, suggest
from aios_core.core import Core
from aios_core.distribution import install_command
from aios_core.errors import ModelLoadError
from aios_core.redaction import learn, learn_settings
from aios_core.tiny import TINY_MODEL, tiny_model_path

OPENAI_URL: Final = "https://api.openai.com/v1"

DEFAULT_CORE_NOTICE: Final = (
    "aios: no core is configured; using the tiny model that comes with the project. For a real one "
    "set AIOS_MODEL=<directory or hub name> (with AIOS_BASE_URL=<url> for a server), or write an "
    "aios.toml. AIOS_QUIET=1 silences this."
)


def build_cores(
    configs: Sequence[CoreConfig], *, environ: Mapping[str, str] | None = None
) -> list[Core]:
    """One core for each table; the tiny model if there is none.

    Args:
        configs: as in `KernelConfig.cores`.
        environ: holds the keys that `api_key_env` names; None for that of the process.

    Raises:
        ConfigError: names the key, as ``cores[1].options.slots``.
        ModelLoadError: a core's library is not installed.
    """
    environ = os.environ if environ is None else environ
    configs = configs or (CoreConfig("tiny"),)
    names = core_names(configs)
    return [
        build_core(config, name=name, key=f"cores[{index}]", environ=environ)
        for index, (config, name) in enumerate(zip(configs, names, strict=True))
    ]


def build_core(
    config: CoreConfig, *, name: str, key: str, environ: Mapping[str, str] | None = None
) -> Core:
    """One of them; `key` is where its table stands. Raises the same."""
    learn_settings(config.options)
    kind, place = _KINDS[config.kind], Place(key, "")
    settings = kind.settings(config, place, os.environ if environ is None else environ)
    settings["name"] = name
    if models := config.models or kind.models(config):
        settings["models"] = models
    constructor = _constructor(kind, name)
    options = _options(constructor, config.options, settings, place.at("options"))
    try:
        core: Core = constructor(**settings, **{**kind.defaults, **options})
    except (TypeError, ValueError) as exc:
        raise place.at("options").refuse(dict(config.options), str(exc)) from exc
    return core


def core_names(configs: Iterable[CoreConfig]) -> list[str]:
    """The names of the cores: their own, or their kind, numbered from the second on."""
    configs = tuple(configs)
    taken = {config.name for config in configs if config.name}
    names = []
    for config in configs:
        name, number = config.name or config.kind, 2
        while config.name is None and name in taken:
            name, number = f"{config.kind}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def announce_default_core(stream: TextIO, *, environ: Mapping[str, str] | None = None) -> None:
    """Say, in one line, that the tiny model is used for want of another. AIOS_QUIET=1: do not."""
    environ = os.environ if environ is None else environ
    if environ.get("AIOS_QUIET", "") in ("", "0"):
        print(DEFAULT_CORE_NOTICE, file=stream)


# --- kinds ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """How cores of one kind are made."""

    module: str
    constructor: str
    settings: Callable[[CoreConfig, Place, Mapping[str, str]], dict[str, Any]]
    models: Callable[[CoreConfig], tuple[str, ...]]  # where the configuration names none
    extra: str = ""  # of our distribution: what installs the library
    newest: Mapping[str, int] = field(default_factory=dict)  # package -> greatest major version
    defaults: Mapping[str, Any] = field(default_factory=dict)  # options unless the table says else


def _openai_settings(
    config: CoreConfig, place: Place, environ: Mapping[str, str]
) -> dict[str, Any]:
    variable = config.api_key_env or ("OPENAI_API_KEY" if config.base_url is None else None)
    if variable and not environ.get(variable):
        allowed = "the name of an environment variable that is set and holds the key"
        raise place.at("api_key_env").refuse(variable, allowed)
    learn(environ[variable] if variable else None)
    return {
        "base_url": config.base_url or OPENAI_URL,
        "api_key": environ[variable] if variable else None,
    }


def _model_name(config: CoreConfig) -> tuple[str, ...]:
    """A hub name as it is; the last part of a path."""
    path = Path(str(config.path)).expanduser()
    is_local = path.exists() or path.is_absolute() or str(config.path).startswith((".", "~"))
    return (path.resolve().name if is_local else str(config.path),)


_KINDS: Final[Mapping[str, Kind]] = {
    "transformers": Kind(
        "aios_core.cores.transformers.core",
        "TransformersCore",
        lambda config, _place, _environ: {"model": str(config.path)},
        _model_name,
        extra="transformers",
        defaults={"keep_contexts": True},
    ),
    "tiny": Kind(
        "aios_core.cores.transformers.core",
        "TransformersCore",
        lambda _config, _place, _environ: {"model": tiny_model_path()},
        lambda _config: (TINY_MODEL,),
        extra="transformers",
        # A second thread slows so small a model down, also on idle cores.
        defaults={"keep_contexts": True, "num_threads": 1},
    ),
    "openai": Kind(
        "aios_core.cores.openai_compatible",
        "OpenAICore",
        _openai_settings,
        lambda config: config.models,
        extra="openai",
        newest={"openai": 2},
    ),
    "replay": Kind(
        "aios_core.cores.replay",
        "ReplayCore",
        lambda config, _place, _environ: {"path": str(config.path)},
        lambda _config: (),
    ),
}


def _constructor(kind: Kind, core: str) -> Callable[..., Any]:
    for package, newest in kind.newest.items():
        _require_not_newer(package, newest, kind.extra, core)
    try:
        return getattr(import_module(kind.module), kind.constructor)  # type: ignore[no-any-return]
    except ImportError as exc:
        missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
        why = f"{missing}, which is not installed" if missing else f"a library that fails: {exc}"
        raise ModelLoadError(
            f"core {core!r} needs {why}; install it with: {install_command(kind.extra)}"
        ) from exc


def _require_not_newer(package: str, newest: int, extra: str, core: str) -> None:
    """Raise `ModelLoadError` for a package of a later major version than this file was made for."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        return  # importing it says so
    if int(installed.partition(".")[0]) > newest:
        raise ModelLoadError(
            f"core {core!r} needs {package} {newest}, and {package} {installed} is installed; "
            f"install it with: {install_command(extra)}"
        )


def _options(
    constructor: Callable[..., Any],
    options: Mapping[str, Any],
    settled: Iterable[str],
    place: Place,
) -> dict[str, Any]:
    """The options of a table, refused by name where the constructor does not know them."""
    parameters = inspect.signature(constructor, eval_str=True).parameters
    known = [name for name in parameters if name not in settled]
    for name, value in options.items():
        if name not in known:
            hint = f"{phrase} " if (phrase := suggest(name, known)) else ""
            allowed = f"no value, since there is no such option; {hint}The options are: "
            raise place.at(name).refuse(value, allowed + ", ".join(known))
    return {
        name: _option(parameters[name].annotation, value, place.at(name))
        for name, value in options.items()
    }


def _option(hint: Any, value: Any, place: Place) -> Any:
    """A table becomes the dataclass that the constructor asks for; the rest goes as it is."""
    for part in (hint, *get_args(hint)):
        if isinstance(part, type) and is_dataclass(part):
            return decode(part, value, place)
    return value
