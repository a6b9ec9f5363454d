"""All cores of a kernel: which of them can serve a call, which should, and which are down.

The pool decides by the cores' `models` and `load`, and by the failures reported to
`mark_down`. It has no timers and starts no probes: the dispatcher reads each `outage`
and acts at its `probe_at`. A core that is draining is in no route. A model that lost its
last core keeps a place (`AbsentCore`), where its calls wait for another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aios_core.core import Capabilities, Core, CoreLoad, ReportSink, load_of
from aios_core.cores.absent import AbsentCore
from aios_core.errors import (
    BackendError,
    ConfigError,
    CoreUnavailable,
    KernelError,
    NoSuchObject,
)
from aios_core.untrusted.arguments import is_a
from aios_core.untrusted.third_party import describe, detach

FIRST_PROBE_S = 0.5
MAX_PROBE_S = 30.0
_UNKNOWN = Capabilities(context_window=128_000)  # of a core that never started


@dataclass(slots=True)
class Outage:
    """The state of a core that is down."""

    error: KernelError
    num_failures: int  # in a row
    probe_at: float  # when to start it again, in seconds of the kernel's clock


class CorePool:
    """The cores by name, and the models that they serve.

    Invariants: names are unique; every model of a core is routed to a core that takes calls, or
    to its absent one; the keys of `outages` and `draining` are names of cores.

    Args:
        cores: the first model of the first core is the default.
        fallbacks: model -> the model, or models, that replace it while all of its own
            cores are down.
        default_model: the model of calls that name none.

    Raises:
        ConfigError: there is no core, two have one name, or a model is unknown.
    """

    def __init__(
        self,
        cores: Iterable[Core],
        *,
        fallbacks: Mapping[str, str | Sequence[str]] | None = None,
        default_model: str | None = None,
    ) -> None:
        self._cores = _by_name(cores)
        self._by_model = _by_model(self._cores.values())
        self._fallbacks = {
            model: (others,) if isinstance(others, str) else tuple(others)
            for model, others in (fallbacks or {}).items()
        }
        self._default = default_model or next(iter(self._by_model))
        self.outages: dict[str, Outage] = {}  # by name of core; only cores that are down
        self.draining: set[str] = set()  # names of cores that take no further calls
        self._absent: dict[str, AbsentCore] = {}  # by model; only models without a core
        self._turn = 0
        self._require_known("cores.default_model", self._default)
        for model, others in self._fallbacks.items():
            for name in (model, *others):
                self._require_known("cores.fallbacks", name)

    def __repr__(self) -> str:
        return f"<CorePool: {len(self)} cores, {len(self.outages)} down, models {self.models}>"

    def __len__(self) -> int:
        return len(self._cores)

    def __iter__(self) -> Iterator[Core]:
        return iter(self._cores.values())

    def __contains__(self, core: object) -> bool:
        return any(one is core for one in self._cores.values())

    def __getitem__(self, name: str) -> Core:
        """Return the core of a name. Raises `NoSuchObject`."""
        if name not in self._cores:
            raise NoSuchObject("core", name, self._cores)
        return self._cores[name]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._by_model)

    @property
    def default_model(self) -> str:
        return self._default

    # --- which core ---------------------------------------------------------------------------

    def route(self, model: str | None = None) -> tuple[Core, ...]:
        """Return the cores that may serve a call: the model's own, or those of its fallbacks.

        A model that lost its last core has an `AbsentCore`, for which its calls wait.

        Fallbacks count while all of the model's own cores are down. If all fallbacks are
        down too, these are the model's own cores again: the call waits for them.
        Raises `NoSuchObject` for a model that no core has.
        """
        model = model or self._default
        own = self._by_model.get(model, ())
        if own and not self.outages:  # the usual case costs nothing
            return own
        if not own and model not in self._absent:
            raise NoSuchObject("model", model, self._by_model)
        for name in (model, *self._fallbacks.get(model, ())):
            if up := tuple(core for core in self._by_model.get(name, ()) if self.is_up(core.name)):
                return up
        return own or (self._absent[model],)

    def serving(self, model: str) -> tuple[Core, ...]:
        """Return the cores that take calls of a model, its absent one if there are none."""
        return self._by_model.get(model) or (self._absent[model],)

    def pick(self, candidates: Sequence[Core]) -> Core | None:
        """Choose the least loaded candidate that is up and has a free slot; equals take turns."""
        if len(candidates) == 1:
            load = self._load_of(candidates[0])
            return candidates[0] if load is not None and load.has_slot else None
        chosen = least_loaded([self._load_of(core) for core in candidates], self._turn)
        return None if chosen is None else candidates[chosen]

    def used(self, core: Core) -> None:  # noqa: ARG002 - the turns of all equals are one count
        """Note that a core got a call, so that the next one goes to another core of equal load."""
        self._turn += 1

    def serves(self, core: Core, model: str | None) -> str:
        """Return the model that `core` runs for a call of `model`, which may be a fallback."""
        model = model or self._default
        if core in self._by_model.get(model, ()):
            return model
        fallbacks = (m for m in self._fallbacks.get(model, ()) if core in self._by_model.get(m, ()))
        return next(fallbacks, core.models[0])

    # --- up and down --------------------------------------------------------------------------

    @property
    def all_up(self) -> bool:
        """Whether no core is down and every model has one."""
        return not (self.outages or self._absent)

    def is_up(self, name: str) -> bool:
        """Return whether a core of that name serves at present. Draining cores may."""
        return name in self._cores and name not in self.outages

    def outage(self, name: str) -> Outage | None:
        """Return why a core is down and when to start it again; None if it is up."""
        return self.outages.get(name)

    def mark_down(self, name: str, error: KernelError, now: float) -> float:
        """Record a failure or a failed probe; return the time of the next probe.

        The time until the next probe doubles with each failure, up to `MAX_PROBE_S`.
        """
        failures = self.outages[name].num_failures + 1 if name in self.outages else 1
        wait_s = min(FIRST_PROBE_S * 2.0 ** min(failures - 1, 30), MAX_PROBE_S)
        self.outages[self[name].name] = Outage(error, failures, now + wait_s)
        return now + wait_s

    def mark_up(self, name: str) -> None:
        """End the outage of a core."""
        self.outages.pop(self[name].name, None)

    def unavailable(self, model: str | None, now: float) -> CoreUnavailable:
        """Build the error of a call with no core that is up: reasons, and when to retry."""
        model = model or self._default
        outages = {
            core.name: out
            for core in self._by_model.get(model, ())
            if (out := self.outage(core.name))
        }
        absent = self._absent.get(model)
        reasons = "; ".join(str(out.error) for out in outages.values()) or (
            absent.reason if absent else "no core is up"
        )
        probe_at = min((out.probe_at for out in outages.values()), default=now)
        return CoreUnavailable(f"no core serves {model!r}: {reasons}", max(0.0, probe_at - now))

    # --- start and close ----------------------------------------------------------------------

    def require_new(self, core: Core) -> None:
        """Raise `ConfigError` unless the core's name is free and the core has a model."""
        _by_name((*self, core))

    def add(self, core: Core) -> None:
        """Add a started core. Raises `ConfigError`, as `require_new`."""
        self.require_new(core)
        self._cores[core.name] = core
        self._route_again(f"core {core.name!r} was added")

    def drain(self, name: str) -> None:
        """Take a core out of all routes. Raises `NoSuchObject`."""
        self.draining.add(self[name].name)
        self._route_again(f"core {name!r} is draining")

    def resume(self, name: str) -> None:
        """Route calls to a core again that was draining. Raises `NoSuchObject`."""
        self.draining.discard(self[name].name)
        self._route_again(f"core {name!r} takes calls again")

    def remove(self, name: str) -> None:
        """Forget a core. Raises `NoSuchObject`."""
        del self._cores[self[name].name]
        self.outages.pop(name, None)
        self.draining.discard(name)
        reason = f"core {name!r} was removed"
        self._route_again(reason)
        for absent in self._absent.values():
            if absent.last == name:
                absent.reason = reason

    def _route_again(self, reason: str) -> None:
        """Derive the routes; a model that loses its last core gets an absent one."""
        before = self._by_model
        self._by_model = _by_model(c for c in self if c.name not in self.draining)
        for model in before.keys() - self._by_model.keys():
            last = before[model][-1]
            self._absent[model] = AbsentCore(model, last.name, _capabilities_of(last), reason)
        for model in self._by_model.keys() & self._absent.keys():
            del self._absent[model]

    async def start_all(self, sinks: Mapping[str, ReportSink], now: float) -> None:
        """Start all cores concurrently; `sinks` has one sink for each name.

        A core that fails is marked down, and the others start.
        Raises `BackendError` with the reason of each core, if none starts. Close the pool
        then, and also if this is cancelled: some cores may have started.
        """
        cores = tuple(self)
        results = await asyncio.gather(
            *(core.start(sinks[core.name]) for core in cores), return_exceptions=True
        )
        errors = {
            core.name: _as_kernel_error(core.name, result)
            for core, result in zip(cores, results, strict=True)
            if isinstance(result, BaseException)
        }
        if len(errors) == len(cores):
            raise _none_started(errors)
        for name, error in errors.items():
            self.mark_down(name, error, now)

    async def close_all(self) -> None:
        """Close all cores concurrently; raise the first error after all have been tried."""
        results = await asyncio.gather(*(core.close() for core in self), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def check(self) -> None:
        """Raise `AssertionError` unless every invariant holds."""
        assert set(self.outages) <= set(self._cores)  # noqa: S101
        assert self.draining <= set(self._cores)  # noqa: S101
        serving = (core for core in self if core.name not in self.draining)
        assert self._by_model == _by_model(serving)  # noqa: S101
        assert not self._by_model.keys() & self._absent.keys()  # noqa: S101

    def _load_of(self, core: Core) -> CoreLoad | None:
        return None if self.outages and core.name in self.outages else load_of(core)

    def _require_known(self, key: str, model: str) -> None:
        if model not in self._by_model:
            raise ConfigError(key, model, f"a model that a core serves: {sorted(self._by_model)}")


def least_loaded(loads: Sequence[CoreLoad | None], turn: int = 0) -> int | None:
    """Return the position of the core to prefer; None if no core can take a call now.

    The smallest share of used slots wins, then the smallest share of used KV memory;
    `turn` rotates among equals. Pure.
    """
    free = {
        position: _fullness(load)
        for position, load in enumerate(loads)
        if load is not None and load.has_slot
    }
    if not free:
        return None
    least = min(free.values())
    best = [position for position, fullness in free.items() if fullness == least]
    return best[turn % len(best)]


def _fullness(load: CoreLoad) -> tuple[float, float]:
    kv = load.kv_tokens / load.kv_capacity if load.kv_capacity else 0.0
    return load.num_running / load.slots, kv


def _by_name(cores: Iterable[Core]) -> dict[str, Core]:
    named: dict[str, Core] = {}
    for core in cores:
        if not is_a(core.name, str) or not core.name:
            raise ConfigError("cores", core.name, "a name")
        if core.name in named:
            raise ConfigError("cores", core.name, "a name that no other core has")
        if not core.models:
            raise ConfigError(f"cores.{core.name}.models", [], "at least one model")
        named[core.name] = core
    if not named:
        raise ConfigError("cores", [], "at least one core")
    return named


def _by_model(cores: Iterable[Core]) -> dict[str, tuple[Core, ...]]:
    serving: dict[str, tuple[Core, ...]] = {}
    for core in cores:
        for model in core.models:
            serving[model] = (*serving.get(model, ()), core)
    return serving


def _capabilities_of(core: Core) -> Capabilities:
    """Return the capabilities of a core, which may be down."""
    try:
        return core.capabilities
    except KernelError:
        return _UNKNOWN


def _as_kernel_error(core: str, error: BaseException) -> KernelError:
    if isinstance(error, KernelError):
        return error
    if not isinstance(error, Exception):
        raise error  # Ctrl-C, or a cancelled task
    failed = BackendError(f"core {core!r} did not start: {describe(error)}")
    failed.__cause__ = detach(error)
    return failed


def _none_started(errors: Mapping[str, KernelError]) -> BackendError:
    reasons = "; ".join(f"{name}: {error}" for name, error in errors.items())
    failed = BackendError(f"no core started: {reasons}")
    failed.__cause__ = next(iter(errors.values()))
    return failed
