"""What `aios doctor` looks at. Each check finds out one thing and never raises for what it finds.

A finding names what was checked, its status, and, unless it is good, a fix.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any, Final

import aios_core
from aios_core.cli.extension_checks import check_extensions
from aios_core.cli.findings import Finding, Health, misconfigured
from aios_core.cli.state_checks import check_state
from aios_core.config import KernelConfig
from aios_core.config_sources import find_config_file
from aios_core.core import Core
from aios_core.cores.factory import build_core, core_tables
from aios_core.cores.pool import CorePool
from aios_core.distribution import install_command, install_from_checkout
from aios_core.errors import ConfigError, KernelError
from aios_core.kernel import Kernel
from aios_core.kernel.trace import require_trace_path
from aios_core.tools.sandbox import probe_backends
from aios_core.tools.sandbox.packages import find_packages
from aios_core.untrusted.third_party import describe_on_worker

# library -> the command that installs it
LIBRARIES: Final[Mapping[str, str]] = {
    "torch": install_command("transformers"),
    "transformers": install_command("transformers"),
    "llguidance": install_command("transformers"),
    "safetensors": install_command("transformers"),
    "anthropic": install_command("anthropic"),
    "openai": install_command("openai"),
    "httpx": install_command("openai"),
    "matplotlib": install_command("plot"),
    "langchain-aios": install_from_checkout("langchain-aios"),
}


def examine(
    path: str | None, *, timeout_s: float, begin: Callable[[str], None] = lambda _step: None
) -> Iterator[Finding]:
    """Check everything, in order. Findings come as they are made; the cores take longest.

    Args:
        path: of the configuration; None: as a kernel finds it.
        timeout_s: how long a core may take for an answer.
        begin: called with what is checked next, for people who wait.
    """
    begin("Python and the libraries")
    yield _python()
    yield _gpu()
    yield from _libraries()
    begin("the installed commands and adapters")
    yield from _entry_points()
    yield from check_extensions()
    begin("the configuration")
    config, found = _config(path)
    yield from found
    begin("the sandbox")
    yield from _sandbox(config)
    begin("the state directory")
    yield from check_state(config)
    yield from _cores(config, timeout_s, begin)


def _python() -> Finding:
    message = f"{platform.python_version()} at {sys.executable}"
    return Finding("here", "python", Health.OK, message, facts={"aios": aios_core.__version__})


def _libraries() -> Iterator[Finding]:
    for name, install in LIBRARIES.items():
        try:
            yield Finding("library", name, Health.OK, version(name))
        except PackageNotFoundError:
            yield Finding("library", name, Health.MISSING, "not installed", install)


def _gpu() -> Finding:
    try:
        from aios_core.cores.transformers.devices import gpu_names  # noqa: PLC0415 - loads torch
    except ImportError as exc:
        return Finding("here", "gpu", Health.MISSING, f"unknown ({exc})")
    if names := gpu_names():
        return Finding("here", "gpu", Health.OK, ", ".join(names))
    return Finding("here", "gpu", Health.MISSING, "none that torch can use; the CPU does the work")


def _entry_points() -> Iterator[Finding]:
    """Check the commands and launchers of other packages."""
    for group, area in (("aios.commands", "command"), ("aios.launchers", "launcher")):
        for entry in entry_points(group=group):
            owner = entry.dist.name if entry.dist else entry.value
            try:
                entry.load()
            except Exception as exc:  # noqa: BLE001 - a third-party module may raise anything
                message = f"cannot be loaded: {describe_on_worker(exc)}"
                fix = f"pip install --upgrade {owner}, or pip uninstall {owner}"
                yield Finding(area, entry.name, Health.ERROR, message, fix)
            else:
                yield Finding(area, entry.name, Health.OK, f"from {owner}")


# --- configuration --------------------------------------------------------------------------------


def _config(path: str | None) -> tuple[KernelConfig, list[Finding]]:
    """The configuration without its mistakes, and a finding for each of them."""
    config, mistakes = KernelConfig.load_leniently(path)
    found = [misconfigured(exc) for exc in mistakes]
    try:
        file = find_config_file(path)
    except ConfigError:  # one of the mistakes
        return config, found
    message = f"{file} and the environment" if file else "no file; defaults and the environment"
    facts = {"file": file and str(file)}
    is_in_force = not any(exc.key == str(file) for exc in mistakes)
    if is_in_force:
        found.insert(0, Finding("configuration", "file", Health.OK, message, facts=facts))
    try:
        require_trace_path(config.trace)
    except ConfigError as exc:
        found.append(misconfigured(exc))
    if not config.cores and not mistakes:
        fix = "AIOS_MODEL=..., or [[cores]] in aios.toml"
        message = "none configured: the bundled test model answers"
        found.append(Finding("configuration", "cores", Health.WARNING, message, fix))
    return config, found


# --- sandbox --------------------------------------------------------------------------------------


def _sandbox(config: KernelConfig) -> Iterator[Finding]:
    """Where code that agents write can run. Without a tier it does not, and the rest works."""
    for name, (_, tier) in probe_backends(config.tools.sandbox).items():
        health = Health.OK if tier.is_available else Health.MISSING
        yield Finding("sandbox", name, health, tier.reason, tier.fix)
    if packages := config.tools.sandbox.packages:
        yield _sandbox_packages(packages)


def _sandbox_packages(packages: Sequence[str]) -> Finding:
    try:
        found = find_packages(packages)
    except ConfigError as exc:
        return Finding("sandbox", "packages", Health.ERROR, str(exc), "name installed packages")
    return Finding("sandbox", "packages", Health.OK, f"{', '.join(packages)} ({len(found)} places)")


# --- cores ----------------------------------------------------------------------------------------


def _cores(
    config: KernelConfig, timeout_s: float, begin: Callable[[str], None]
) -> Iterator[Finding]:
    built: list[Core] = []
    try:
        tables = list(core_tables(config.cores))
    except ConfigError as exc:
        yield misconfigured(exc)
        return
    for key, name, table in tables:
        try:
            core = build_core(table, name=name, key=f"{key} ({name})")
        except ConfigError as exc:
            yield misconfigured(exc)
        except KernelError as exc:
            yield _broken_core(name, exc)
        else:
            built.append(core)
            begin(f"core {name!r}: waiting for one token (at most {timeout_s:g} s)")
            yield _try_core(core, table.kind, timeout_s)
    if len(built) == len(tables):
        yield from _routing(config, built)


def _try_core(core: Core, kind: str, timeout_s: float) -> Finding:
    """Start a core alone and generate one token. A recording is only started."""
    began = time.perf_counter()
    latency_s = None
    try:
        with Kernel(KernelConfig(), cores=[core]) as kernel:
            start_s = time.perf_counter() - began
            if kind != "replay":
                latency_s = _call(kernel, timeout_s)
            capabilities, slots = core.capabilities, core.load().slots
    except KernelError as exc:
        return _broken_core(core.name, exc)
    facts = {
        "kind": kind,
        "models": list(core.models),
        "start_s": round(start_s, 3),
        "latency_s": latency_s and round(latency_s, 4),
        "slots": slots,
        "context_window": capabilities.context_window,
        "can": [name for name in _ABILITIES if getattr(capabilities, name)],
        "cannot": [name for name in _ABILITIES if not getattr(capabilities, name)],
        "notes": list(capabilities.notes),
    }
    return Finding("core", core.name, Health.OK, _describe(facts), facts=facts)


_ABILITIES: Final = (
    "preemptible",
    "exact_resume",
    "kv_snapshots",
    "tools",
    "json_schema",
    "seed",
    "warm_contexts",
)


def _call(kernel: Kernel, timeout_s: float) -> float:
    """Seconds that a call for one token takes."""
    with kernel.spawn("doctor") as agent:
        began = time.perf_counter()
        agent.llm.generate("Hello", max_tokens=1, timeout_s=timeout_s)
        return time.perf_counter() - began


def _describe(facts: Mapping[str, Any]) -> str:
    latency = facts["latency_s"]
    answered = "started" if latency is None else f"one token in {latency * 1000:.0f} ms"
    served = ", ".join(facts["models"])
    lines = [
        f"{facts['kind']}, serves {served}; {answered}, ready after {facts['start_s']:.1f} s",
        f"{facts['slots']} slots, context of {facts['context_window']} tokens",
        f"can: {_words(facts['can'])}",
    ]
    if facts["cannot"]:
        lines.append(f"cannot: {_words(facts['cannot'])}")
    return "\n".join([*lines, *facts["notes"]])


def _words(names: Iterable[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)


def _broken_core(name: str, error: KernelError) -> Finding:
    reason = error.__cause__ if isinstance(error.__cause__, KernelError) else error
    place = (
        "AIOS_MODEL and AIOS_BASE_URL" if os.environ.get("AIOS_MODEL") else "its [[cores]] table"
    )
    return Finding("core", name, Health.ERROR, str(reason), f"fix that, or {place}")


def _routing(config: KernelConfig, cores: list[Core]) -> Iterator[Finding]:
    """Return whether the models that the configuration names are served by a core."""
    try:
        pool = CorePool(cores, fallbacks=config.fallbacks, default_model=config.default_model)
    except ConfigError as exc:
        yield misconfigured(exc)
        return
    yield Finding("configuration", "default model", Health.OK, pool.default_model)
    for model in sorted(config.prices.keys() - set(pool.models)):
        message, fix = "no core serves this model", f"one of {', '.join(pool.models)}"
        yield Finding("configuration", f"prices.{model}", Health.WARNING, message, fix)
