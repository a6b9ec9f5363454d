"""The kinds of cores: how a table of `[[cores]]` becomes the arguments of a core's constructor.

A kind is one `CoreKind`. Ours are below; packages register further ones as entry points of the
group `aios.cores`. A kind names its constructor, and the constructor's module is imported when a
core of that kind is built, and not before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from aios_core.bundled_model import TINY_MODEL, tiny_model_path
from aios_core.config_decoder import Place
from aios_core.distribution import install_command
from aios_core.errors import ConfigError
from aios_core.redaction import learn

OPENAI_URL: Final = "https://api.openai.com/v1"
ANTHROPIC_URL: Final = "https://api.anthropic.com"
KEYS: Final = ("path", "base_url", "api_key_env")  # of a table, next to those that fit every kind
PARAMETERS: Final = ("name", "models", "path", "base_url", "api_key")  # that are not options

Arguments = dict[str, Any]


class CoreTable(Protocol):
    """A table of `[[cores]]`; `aios_core.config.CoreConfig` is one."""

    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def path(self) -> str | None: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key_env(self) -> str | None: ...


def arguments_of(table: CoreTable, place: Place, environ: Mapping[str, str]) -> Arguments:
    """The keys of a table under their own names; the key that `api_key_env` names as `api_key`."""
    given = {"path": table.path, "base_url": table.base_url}
    arguments = {name: value for name, value in given.items() if value is not None}
    if table.api_key_env is not None:
        arguments["api_key"] = read_key(table.api_key_env, place, environ)
    return arguments


def read_key(variable: str, place: Place, environ: Mapping[str, str]) -> str:
    """Read a key from the environment, and never show it. Raises `ConfigError`."""
    if not (key := environ.get(variable)):
        allowed = "the name of an environment variable that is set and holds the key"
        raise place.at("api_key_env").refuse(variable, allowed)
    learn(key)
    return key


def _named_models(table: CoreTable) -> tuple[str, ...]:
    return table.models


@dataclass(frozen=True, slots=True)
class CoreKind:
    """The declaration of one kind of core.

    The constructor's parameters are the declaration: it gets `name`, and `models` unless they are
    empty; each key of `[cores.options]` is a parameter by name, checked against its annotation.
    """

    build: Callable[..., Any] | str  # the constructor, or "module:name" of it
    needs: Sequence[str] = ()  # keys of the table that have to be there, of `KEYS` and "models"
    takes: Sequence[str] = ()  # ... and that may be there
    install: str = ""  # the command that installs its libraries
    newest: Mapping[str, int] = field(default_factory=dict)  # package -> greatest major version
    defaults: Mapping[str, Any] = field(default_factory=dict)  # options that a table may change
    arguments: Callable[[CoreTable, Place, Mapping[str, str]], Arguments] = arguments_of
    models: Callable[[CoreTable], tuple[str, ...]] = _named_models  # if the table names none
    # What the options of the several cores of one table are; one core if it is None.
    replicas: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None

    @classmethod
    def of(cls, build: Callable[..., Any]) -> CoreKind:
        """Declare a kind by its constructor: parameters without a default are needed."""
        parameters = inspect.signature(build).parameters
        names = {"models": "models", **{key: key for key in KEYS}, "api_key_env": "api_key"}
        known = {key: parameters[name] for key, name in names.items() if name in parameters}
        needs = [key for key, one in known.items() if one.default is one.empty]
        return cls(build, needs, [key for key in known if key not in needs])

    def require_keys(self, kind: str, table: CoreTable) -> None:
        """Raise `ConfigError` for a key that is missing, or that this kind does not take."""
        for key in self.needs:
            if not getattr(table, key):
                raise ConfigError(key, getattr(table, key), f"needed by kind {kind!r}")
        for key in KEYS:
            given = getattr(table, key)
            if key not in (*self.needs, *self.takes) and given is not None:
                raise ConfigError(key, given, f"not given for kind {kind!r}")


# --- ours -----------------------------------------------------------------------------------------


def endpoint_arguments(
    table: CoreTable, place: Place, environ: Mapping[str, str], *, url: str, variable: str
) -> Arguments:
    """Return URL and key of an endpoint: the provider's own `url`, unless the table has another.

    The provider's own endpoint gets the key in the environment `variable`, unless the table names
    another one.
    """
    variable = table.api_key_env or (variable if table.base_url is None else "")
    key = read_key(variable, place, environ) if variable else None
    return {"base_url": table.base_url or url, "api_key": key}


def _model_name(table: CoreTable) -> tuple[str, ...]:
    """A hub name as it is; the last part of a path."""
    path = Path(str(table.path)).expanduser()
    is_local = path.exists() or path.is_absolute() or str(table.path).startswith((".", "~"))
    return (path.resolve().name if is_local else str(table.path),)


def _expanded(path: str) -> str:
    """Return a path with its home directory; a hub name as it is."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


TRANSFORMERS: Final = CoreKind(
    "aios_core.cores.transformers.core:TransformersCore",
    needs=("path",),
    install=install_command("transformers"),
    defaults={"keep_contexts": True},
    arguments=lambda table, _place, _environ: {"model": str(table.path)},
    models=_model_name,
)

TINY: Final = CoreKind(
    "aios_core.cores.transformers.core:TransformersCore",
    install=install_command("transformers"),
    # A second thread slows so small a model down, also on idle cores.
    defaults={"keep_contexts": True, "num_threads": 1},
    arguments=lambda _table, _place, _environ: {"model": tiny_model_path()},
    models=lambda _table: (TINY_MODEL,),
)

OPENAI: Final = CoreKind(
    "aios_core.cores.openai.core:OpenAICore",
    needs=("models",),
    takes=("base_url", "api_key_env"),
    install=install_command("openai"),
    newest={"openai": 2},
    arguments=partial(endpoint_arguments, url=OPENAI_URL, variable="OPENAI_API_KEY"),
)

ANTHROPIC: Final = CoreKind(
    "aios_core.cores.anthropic.core:AnthropicCore",
    needs=("models",),
    takes=("base_url", "api_key_env"),
    install=install_command("anthropic"),
    newest={"anthropic": 2},
    arguments=partial(endpoint_arguments, url=ANTHROPIC_URL, variable="ANTHROPIC_API_KEY"),
)


def _vllm_replicas(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the options of each replica, with its GPUs. Raises `ConfigError`."""
    rest = {key: value for key, value in options.items() if key != "replicas"}
    counts = {key: options.get(key, 1) for key in ("replicas", "tensor_parallel")}
    for key, count in counts.items():
        if type(count) is not int or count < 1:
            raise ConfigError(key, count, "a whole number, 1 or more")
    gpus = options.get("gpus", ())
    if not isinstance(gpus, Sequence) or isinstance(gpus, str):
        raise ConfigError("gpus", gpus, "a list of numbers of GPUs")
    chosen = gpus_of_replicas(counts["replicas"], counts["tensor_parallel"], tuple(gpus))
    return [{**rest, "gpus": list(own)} for own in chosen]


def gpus_of_replicas(
    replicas: int, tensor_parallel: int, gpus: Sequence[int]
) -> list[tuple[int, ...]]:
    """Return the GPUs of each replica: those given, split evenly, or the first ones in order.

    A single replica without a choice sees all GPUs. Raises `ConfigError` if they do not fit.
    """
    if not gpus and replicas == 1:
        return [()]
    num_needed = replicas * tensor_parallel
    chosen = tuple(gpus) or tuple(range(num_needed))
    if len(chosen) != num_needed:
        needed = f"{num_needed} of them, for {replicas} replicas of {tensor_parallel}"
        raise ConfigError("gpus", list(gpus), needed)
    return [chosen[n * tensor_parallel : (n + 1) * tensor_parallel] for n in range(replicas)]


VLLM: Final = CoreKind(
    "aios_core.cores.vllm.core:VLLMCore",
    needs=("path",),
    install=install_command("openai"),
    newest={"openai": 2},
    arguments=lambda table, _place, _environ: {"model": _expanded(str(table.path))},
    models=_model_name,
    replicas=_vllm_replicas,
)

REPLAY: Final = CoreKind("aios_core.cores.replay:ReplayCore", needs=("path",))

BUILT_IN: Final[Mapping[str, CoreKind]] = {
    "transformers": TRANSFORMERS,
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "vllm": VLLM,
    "replay": REPLAY,
    "tiny": TINY,
}
