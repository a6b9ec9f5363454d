"""Build the cores of a configuration.

Each kind of core is a `CoreKind`. Its library is imported when a core of that kind is
built; the error for a missing library names the command that installs it. No model is
loaded and no endpoint is called: `Core.start` does that. Only recordings are read.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import Parameter
from typing import Any, Final, TextIO

from aios_core.config import CoreConfig
from aios_core.config_decoder import Place, decode, is_decodable
from aios_core.core import Core
from aios_core.core_kinds import BUILT_IN, PARAMETERS, CoreKind
from aios_core.errors import ConfigError, KernelError, ModelLoadError
from aios_core.extensions import CORE_KINDS
from aios_core.redaction import learn_settings
from aios_core.suggestions import unknown_name
from aios_core.untrusted.third_party import RAISED, describe_on_worker, pass_on

CORE_PARTS: Final = ("models", "start", "prepare", "run", "preempt", "cancel", "load", "close")

DEFAULT_CORE_NOTICE: Final = (
    "aios: no core is configured; using the bundled tiny model. For a real one "
    "set AIOS_MODEL=<directory or hub name> (with AIOS_BASE_URL=<url> for a server), or write an "
    "aios.toml. AIOS_QUIET=1 silences this."
)


def build_cores(
    configs: Sequence[CoreConfig], *, environ: Mapping[str, str] | None = None
) -> list[Core]:
    """Build one core for each table; the tiny model if there is no table.

    Args:
        configs: as in `KernelConfig.cores`.
        environ: holds the keys that `api_key_env` names; None: the process environment.

    Raises:
        ConfigError: a value is wrong; the error names its key, as ``cores[1].options.slots``.
        ModelLoadError: the library of a core is not installed.
    """
    environ = os.environ if environ is None else environ
    return [
        build_core(config, name=name, key=key, environ=environ)
        for key, name, config in core_tables(configs)
    ]


def core_tables(configs: Sequence[CoreConfig]) -> Iterator[tuple[str, str, CoreConfig]]:
    """Yield key, name and table of each core; a table with replicas is one for each of them.

    Raises `ConfigError`.
    """
    configs = configs or (CoreConfig("tiny"),)
    for index, (config, name) in enumerate(zip(configs, core_names(configs), strict=True)):
        key = f"cores[{index}]"
        parts = _replicas(config, Place(f"{key}.options", ""))
        for number, options in enumerate(parts):
            own = name if len(parts) == 1 else f"{name}-{number}"
            yield key, own, replace(config, options=options)


def _replicas(config: CoreConfig, place: Place) -> Sequence[Mapping[str, Any]]:
    kind = BUILT_IN.get(config.kind)
    if kind is None or kind.replicas is None:
        return [config.options]
    try:
        return kind.replicas(config.options)
    except ConfigError as exc:
        raise place.at(exc.key).refuse(exc.got, exc.allowed) from exc


def build_core(
    config: CoreConfig, *, name: str, key: str, environ: Mapping[str, str] | None = None
) -> Core:
    """Build the core of one table at `key` of the configuration. Raises as `build_cores`."""
    learn_settings(config.options)
    environ, place = os.environ if environ is None else environ, Place(key, "")
    kind = _kind_of(config, place)
    try:
        return _built(kind, config, name, place, environ)
    except KernelError:
        raise
    except RAISED as exc:  # the constructor may belong to a third-party package
        pass_on(exc)
        reason = describe_on_worker(exc)
        message = f"core {name!r} of kind {config.kind!r} cannot be made: {reason}"
        raise ModelLoadError(message) from exc


def _built(
    kind: CoreKind, config: CoreConfig, name: str, place: Place, environ: Mapping[str, str]
) -> Core:
    arguments = {**kind.arguments(config, place, environ), "name": name}
    if models := config.models or kind.models(config):
        arguments["models"] = models
    constructor = constructor_of(kind, name)
    options = _options(constructor, config.options, {*arguments, *PARAMETERS}, place.at("options"))
    try:
        core: Core = constructor(**arguments, **{**kind.defaults, **options})
    except (TypeError, ValueError) as exc:
        raise place.at("options").refuse(dict(config.options), str(exc)) from exc
    if missing := [part for part in CORE_PARTS if not hasattr(core, part)]:
        allowed = f"a kind that makes cores; the object of this one has no {', '.join(missing)}"
        raise place.at("kind").refuse(config.kind, allowed)
    return core


def kind_of(name: str, place: Place) -> CoreKind:
    """Find a kind of core by name. Raises a `ConfigError` that names the package at fault."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    declared = CORE_KINDS.load(name, place)
    if isinstance(declared, CoreKind):
        return declared
    if not callable(declared):
        raise place.refuse(
            name, "a kind with an entry point that is a CoreKind or a core's constructor"
        )
    try:
        return CoreKind.of(declared)
    except (TypeError, ValueError) as exc:
        raise place.refuse(name, f"a kind with a constructor that has a signature: {exc}") from exc


def core_names(configs: Iterable[CoreConfig]) -> list[str]:
    """Return the names of the cores: their own, or their kind, numbered from the second on."""
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
    """Print that the bundled model is used, since no core is configured; not with AIOS_QUIET=1."""
    environ = os.environ if environ is None else environ
    if environ.get("AIOS_QUIET", "") in ("", "0"):
        print(DEFAULT_CORE_NOTICE, file=stream)


# --- construction -------------------------------------------------------------------------------


def _kind_of(config: CoreConfig, place: Place) -> CoreKind:
    kind = kind_of(config.kind, place.at("kind"))
    try:
        kind.require_keys(config.kind, config)
    except ConfigError as exc:
        raise place.at(exc.key).refuse(exc.got, exc.allowed) from exc
    return kind


def constructor_of(kind: CoreKind, core: str) -> Callable[..., Any]:
    """Import the constructor of a kind. Raises `ModelLoadError` if a library is missing."""
    for package, newest in kind.newest.items():
        _require_not_newer(package, newest, kind.install, core)
    if not isinstance(kind.build, str):
        return kind.build
    module, _, name = kind.build.partition(":")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as exc:
        missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
        why = f"{missing}, which is not installed" if missing else f"a library that fails: {exc}"
        install = f"; install it with: {kind.install}" if kind.install else ""
        raise ModelLoadError(f"core {core!r} needs {why}{install}") from exc


def _require_not_newer(package: str, newest: int, install: str, core: str) -> None:
    """Raise `ModelLoadError` for a package of a later major version than the kind supports."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        return  # importing it raises
    if int(installed.partition(".")[0]) > newest:
        raise ModelLoadError(
            f"core {core!r} needs {package} {newest}, and {package} {installed} is installed; "
            f"install it with: {install}"
        )


def _options(
    constructor: Callable[..., Any],
    options: Mapping[str, Any],
    settled: Iterable[str],
    place: Place,
) -> dict[str, Any]:
    """Check the options of a table. Raises `ConfigError` for one that is not a parameter."""
    parameters = inspect.signature(constructor, eval_str=True).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    known = [name for name, one in parameters.items() if name not in settled and _is_named(one)]
    for name, value in options.items():
        if name not in known and (name in settled or Parameter.VAR_KEYWORD not in kinds):
            raise place.at(name).refuse(value, unknown_name("option", name, known))
    return {
        name: _option(parameters[name].annotation, value, place.at(name))
        if name in known
        else value
        for name, value in options.items()
    }


def _is_named(parameter: Parameter) -> bool:
    return parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _option(hint: Any, value: Any, place: Place) -> Any:
    """Decode an option by the parameter's annotation, if that is possible."""
    return decode(hint, value, place) if is_decodable(hint) else value
