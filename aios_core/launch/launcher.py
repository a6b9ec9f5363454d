"""Run programs that are written for an agent framework on the kernel, unchanged: `install()`.

An adapter offers a `Launcher` in the entry point group `aios.launchers`; `aios
run` and `install` apply them all. A launcher names the modules of its framework
and the patch of each, applied when the module is imported, so that a program pays only for
the frameworks that it uses.

    substitute    the kernel's cores answer; no provider, no key
    passthrough   the framework's own client calls its provider when the kernel schedules it:
                  counted and cancellable
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from types import ModuleType
from typing import Final, Literal, Protocol, get_args

from aios_core.errors import InvalidRequest, KernelError, NoSuchObject
from aios_core.fork_safety import free_after_fork
from aios_core.launch.notices import forget_notices
from aios_core.launch.patching import ImportHook, Patches
from aios_core.redaction import shown_repr
from aios_core.untrusted.third_party import describe_on_worker

Mode = Literal["substitute", "passthrough"]

GROUP: Final = "aios.launchers"


class LauncherFailed(KernelError):
    """An installed adapter failed to patch its framework."""

    is_startup = True  # stop the program: its framework's calls would go past the kernel


class LauncherProtocol(Protocol):
    """The object that an entry point in the group `aios.launchers` provides."""

    def install(self, mode: Mode) -> None:
        """Patch the framework, at once or when it is imported. Idempotent.

        Raises:
            InvalidRequest: the framework does not have this mode.
        """

    def warn_at_import(self, mode: Mode) -> None:
        """Warn when a program imports the framework that this mode is not supported."""

    def uninstall(self) -> None:
        """Restore the framework. Idempotent."""


@dataclass(slots=True)
class Launcher:
    """The patches of one framework.

    Args:
        framework: its name in messages.
        patches: by mode, then by module of the framework: the function that patches the module,
            as "module:function". It takes the module and a `Patches`; it is imported when the
            framework's module is.
        tested: prefixes of the tested versions by distribution, such as
            {"autogen-core": ("0.7.",)}. Patching another version gives a warning.
    """

    framework: str
    patches: Mapping[str, Mapping[str, str]]
    tested: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _hook: ImportHook | None = field(default=None, init=False, repr=False)
    _mode: str | None = field(default=None, init=False)

    def install(self, mode: Mode) -> None:
        """Patch imported modules now, and others when they are imported.

        If another mode is installed, its patches are removed first.

        Raises:
            InvalidRequest: the framework does not have this mode.
        """
        if mode not in self.patches:
            allowed = [*self.patches]
            raise InvalidRequest(f"mode of {self.framework}: got {mode!r}; allowed: {allowed}")
        if mode == self._mode:
            return
        self.uninstall()
        self._mode = mode
        self._hook = ImportHook(
            {name: partial(self._patch, target) for name, target in self.patches[mode].items()}
        )
        self._hook.apply()

    def warn_at_import(self, mode: Mode) -> None:
        """Warn when a program imports the framework that this mode is not supported."""
        self.uninstall()
        modules = {name for patches in self.patches.values() for name in patches}
        self._hook = ImportHook(dict.fromkeys(modules, partial(self._warn, mode)))
        self._hook.apply()

    def uninstall(self) -> None:
        """Restore the framework. Idempotent."""
        if self._hook is not None:
            self._hook.undo()
        self._hook = self._mode = None

    def _patch(self, target: str, module: ModuleType, patches: Patches) -> None:
        self._warn_of_untested()
        place, _, name = target.partition(":")
        getattr(import_module(place), name)(module, patches)

    def _warn(self, mode: str, *_: object) -> None:
        warnings.warn(
            f"{self.framework} does not support mode {mode!r}; its calls go past the kernel",
            stacklevel=2,
        )

    def _warn_of_untested(self) -> None:
        for dist, prefixes in self.tested.items():
            try:
                found = version(dist)
            except PackageNotFoundError:
                continue
            if not found.startswith(tuple(prefixes)):
                known = ", ".join(f"{one}*" for one in prefixes)
                warnings.warn(
                    f"{dist} {found} was not tested with AIOS; tested: {known}", stacklevel=2
                )


_lock = free_after_fork(threading.Lock())  # guards _installed
_installed: dict[str, LauncherProtocol] = {}
_after_uninstall: Final[list[Callable[[], None]]] = []


def on_uninstall(action: Callable[[], None]) -> None:
    """Run an action at the end of every `uninstall`, such as to allow notices again."""
    _after_uninstall.append(action)


def install(frameworks: str | Iterable[str] | None = None, mode: Mode = "substitute") -> None:
    """Run the LLM calls of agent frameworks on the default kernel of this process.

    Works before and after the frameworks are imported, and imports none itself. Idempotent.

    Args:
        frameworks: names of adapters' launchers, such as "langchain" and "autogen". None: all; a
            framework without the mode warns when it is imported.
        mode: "substitute": the kernel's cores answer. "passthrough": the framework calls its own
            provider when the kernel schedules the call.

    Raises:
        InvalidRequest: the mode is unknown, or a framework named here does not have it.
        NoSuchObject: an adapter named here is not installed.
        LauncherFailed: an adapter failed to patch its framework.
    """
    if mode not in get_args(Mode):
        raise InvalidRequest(f"mode: got {shown_repr(mode)}; allowed: {list(get_args(Mode))}")
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    names = (frameworks,) if isinstance(frameworks, str) else frameworks
    chosen = tuple(found) if names is None else tuple(names)
    if unknown := [name for name in chosen if name not in found]:
        raise NoSuchObject("adapter", unknown[0], found)
    with _lock:
        for name in chosen:
            _installed[name] = _load_and_install(found[name], mode, is_optional=names is None)


def uninstall() -> None:
    """Restore every framework that `install` has patched. Idempotent."""
    with _lock:
        while _installed:
            _installed.popitem()[1].uninstall()
    for action in _after_uninstall:
        action()
    forget_notices()


def _load_and_install(entry: EntryPoint, mode: Mode, *, is_optional: bool) -> LauncherProtocol:
    try:
        launcher: LauncherProtocol = entry.load()
        try:
            launcher.install(mode)
        except InvalidRequest:
            if not is_optional:
                raise
            launcher.warn_at_import(mode)
    except InvalidRequest:
        raise
    except Exception as exc:
        owner = entry.dist.name if entry.dist else entry.value
        raise LauncherFailed(
            f"the launcher {entry.name!r} of {owner} failed: {describe_on_worker(exc)}"
        ) from exc
    return launcher
