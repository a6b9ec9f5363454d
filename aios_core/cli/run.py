"""`aios run`: a script, module or notebook as it would run by itself, its LLM calls on the kernel.

Before it starts, `aios_core.install` puts the classes of every framework that has an
adapter on the kernel. The script then finds `sys.argv`, `sys.path` and ``__main__`` as Python
sets them, its tracebacks show its own frames alone, and its exit status is ours.
The kernel starts with the first call and is closed when the script has ended.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import get_args

from aios_core.cli.failures import is_debugging, place_of, report, report_all, setup_failure
from aios_core.cli.interruption import end_soon
from aios_core.cli.options import add_config
from aios_core.cli.run_notebook import is_notebook, run_notebook
from aios_core.config import KernelConfig
from aios_core.config_sources import find_config_file
from aios_core.errors import ConfigError, InvalidRequest
from aios_core.extensions import POLICIES
from aios_core.kernel.default import set_default_kernel
from aios_core.kernel.trace import require_trace_path
from aios_core.launch import Mode, install, uninstall
from aios_core.launch.notices import show_notices

_KEPT = argparse.REMAINDER  # what follows belongs to the script, its options too


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Run a Python script, a module or a notebook, unmodified, with its LLM calls on the kernel."
    )
    parser.usage = (
        "aios run [--policy POLICY] [--mode MODE] [--config FILE]\n"
        "                [--trace FILE] (SCRIPT | -m MODULE) [ARGUMENT ...]"
    )
    parser.add_argument("--policy", choices=POLICIES.names(), help="the scheduling policy")
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="substitute",
        help="what answers: the kernel's cores, or the framework's own provider, in its turn",
    )
    add_config(parser)
    parser.add_argument(
        "--trace", metavar="FILE", help="write which agent ran where and when, for ui.perfetto.dev"
    )
    parser.add_argument(
        "-m", dest="module", nargs=_KEPT, metavar="MODULE", help="the module, and its arguments"
    )
    parser.add_argument(
        "script", nargs=_KEPT, metavar="SCRIPT", help="the script or notebook, and its arguments"
    )
    parser.set_defaults(call=lambda options: _run(parser, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    words = options.module if options.module is not None else options.script
    if words and words[0] == "--" and options.module is None:
        words = words[1:]
    if not words:
        parser.error("name a script, or a module with -m")
    if options.module is None and not Path(words[0]).exists():
        raise InvalidRequest(f"there is no script {words[0]!r}")
    if options.module is None and _is_no_program(Path(words[0])):
        raise InvalidRequest(
            f"{words[0]!r} is a folder without __main__.py; name a script in it, "
            "or a module with -m"
        )
    with _environment(_settings(options)), _as_main(words, is_module=options.module is not None):
        config, mistakes = _load_config()  # better known before the script starts
        if mistakes:
            return report_all(mistakes)
        if config.trace is not None:
            require_trace_path(config.trace)
        install(mode=options.mode)
        show_notices()
        try:
            if options.module is None and is_notebook(words[0]):
                return run_notebook(Path(words[0]))
            return _execute(words[0], is_module=options.module is not None)
        finally:
            uninstall()
            show_notices(False)
            _close_kernel(is_hurried=sys.exc_info()[0] is not None)


def _load_config() -> tuple[KernelConfig, Sequence[ConfigError]]:
    """Return the configuration, and its mistakes if it has some."""
    try:
        return KernelConfig.load(), ()
    except ConfigError as first:
        if is_debugging():
            raise
        config, mistakes = KernelConfig.load_leniently()
        others = [exc for exc in mistakes if str(exc) != str(first)]
        return config, (first, *others)


def _is_no_program(path: Path) -> bool:
    return path.is_dir() and not (path / "__main__.py").exists()


def _settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the options as environment variables, which the script's own processes inherit."""
    settings = {}
    if options.config:
        file = find_config_file(options.config)
        settings["AIOS_CONFIG"] = str(file.resolve()) if file else ""
    if options.trace:
        settings["AIOS_TRACE"] = str(Path(options.trace).absolute())
    if options.policy:
        settings["AIOS_SCHEDULER__POLICY"] = options.policy
    return settings


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _as_main(words: list[str], *, is_module: bool) -> Iterator[None]:
    """`sys.argv` and `sys.path` as Python sets them for a script or a module."""
    argv, path = sys.argv, sys.path[:]
    command = str(Path(argv[0]).resolve().parent)  # of `aios` itself, no business of the script's
    first = Path.cwd() if is_module else Path(words[0]).resolve().parent
    sys.argv = ["-m", *words[1:]] if is_module else words
    sys.path[:] = [str(first), *(entry for entry in path if entry != command)]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _execute(target: str, *, is_module: bool) -> int:
    try:
        if is_module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(Path(target).absolute()), run_name="__main__")
    except SystemExit as exc:
        return _status(exc)
    except KeyboardInterrupt:
        end_soon()  # closing the kernel included
        raise
    except BaseException as exc:  # shown as Python would show it
        if not is_debugging() and (failure := setup_failure(exc)):
            file = str(Path(target).absolute())
            place = place_of(failure.__traceback__, file) or place_of(exc.__traceback__, file)
            return report(failure, place=place)
        own = _frames_of_main(exc.__traceback__)
        if own is None and isinstance(exc, ImportError):  # the module is not there
            raise InvalidRequest(f"cannot run the module {target!r}: {exc}") from exc
        sys.excepthook(type(exc), exc.with_traceback(own), own)
        return 1
    return 0


def _status(exc: SystemExit) -> int:
    """The exit status that Python makes of it."""
    if exc.code is None:
        return 0
    if isinstance(exc.code, int):
        return exc.code
    print(exc.code, file=sys.stderr)
    return 1


def _frames_of_main(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's first frame on."""
    while traceback and traceback.tb_frame.f_globals.get("__name__") != "__main__":
        traceback = traceback.tb_next
    return traceback


def _close_kernel(*, is_hurried: bool) -> None:
    """Close the default kernel, if the script's calls have started one."""
    if kernel := set_default_kernel(None):
        kernel.close(0 if is_hurried else None)
