"""Find installed packages that code in the sandbox may import.

A name in `tools.sandbox.packages` is a distribution of this program's environment. It is bound
read-only inside, with all that it requires and nothing else of the environment. The isolation
backend gets a mapping from places below `PACKAGES` to paths of the host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import PurePosixPath
from typing import Final

from aios_core.errors import ConfigError
from aios_core.suggestions import suggest
from aios_core.tools.sandbox.backend import DOCUMENTS, WORK

PACKAGES: Final = f"{DOCUMENTS}/packages"

_KEY: Final = "tools.sandbox.packages"
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?[^;]*(;.*)?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_MAX_SHOWN: Final = 30  # installed distributions in an error

#: For every Python inside: the places of packages, and the backend for matplotlib's figures.
ENVIRONMENT: Final[Mapping[str, str]] = {
    "PYTHONPATH": f"{WORK}:{PACKAGES}",  # modules among the files can be imported
    "MPLBACKEND": "module://aios_figures",
    "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108 - the sandbox's own
    "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 - caches of libraries are not files of the agent
    "OPENBLAS_NUM_THREADS": "4",  # a thread for each processor is more than the sandbox allows
    "OMP_NUM_THREADS": "4",
}


def documents() -> dict[str, bytes]:
    """Return the modules of the kernel that Python inside finds among the packages."""
    source = resources.files(__package__).joinpath("aios_figures.py").read_bytes()
    return {"packages/aios_figures.py": source}


def find_packages(names: Iterable[str]) -> dict[str, str]:
    """Map places below `PACKAGES` to paths of the host, for packages and what they require.

    Raises:
        ConfigError: one is not installed here, or has no files that could be shown.
    """
    found: dict[str, str] = {}
    waiting = [(name, frozenset[str]()) for name in names]
    for name, _ in waiting:
        _require_installed(name)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (_normal(name), extras) in seen:
            continue
        seen.add((_normal(name), extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # a requirement for another system, or one that is missing here too
        found |= _places(package)
        waiting += _requirements(package, extras)
    return found


def _require_installed(name: str) -> None:
    try:
        package = distribution(name)
    except (PackageNotFoundError, ValueError):
        installed = sorted({_normal(one.name) for one in distributions() if one.name})
        hint = f"; {phrase}" if (phrase := suggest(_normal(name), installed)) else ""
        shown = ", ".join(installed[:_MAX_SHOWN])
        more = f" and {len(installed) - _MAX_SHOWN} more" if len(installed) > _MAX_SHOWN else ""
        raise ConfigError(
            _KEY, name, f"names of packages that are installed here: {shown}{more}{hint}"
        ) from None
    if not _places(package):
        raise ConfigError(
            _KEY, name, "packages with files in this environment, not those of an editable install"
        )


def _places(package: Distribution) -> dict[str, str]:
    """Return the top-level folders and files of a distribution, and their paths on the host.

    Of a namespace package, only the distribution's own part.
    """
    files = [PurePosixPath(file) for file in package.files or ()]
    files = [file for file in files if ".." not in file.parts and file.suffix != ".pth"]
    packages = {file.parent for file in files if file.name == "__init__.py"}
    places = {_place(file, packages) for file in files if "__pycache__" not in file.parts}
    if not any(place.suffix != ".dist-info" for place in places):
        return {}
    there = {str(place): os.path.realpath(str(package.locate_file(place))) for place in places}
    return {place: path for place, path in there.items() if os.path.exists(path)}  # noqa: PTH110


def _place(file: PurePosixPath, packages: set[PurePosixPath]) -> PurePosixPath:
    """Return the outermost folder of a file that belongs to its distribution alone."""
    folders = [PurePosixPath(*file.parts[:depth]) for depth in range(1, len(file.parts))]
    for folder in folders:
        if folder in packages or folder.suffix in (".dist-info", ".libs", ".data"):
            return folder
    return file


def _requirements(
    package: Distribution, extras: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    for line in package.requires or ():
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        wanted = set(_EXTRA.findall(match[3] or ""))
        if not wanted or wanted & extras:
            theirs = frozenset(one.strip() for one in (match[2] or "").split(",") if one.strip())
            yield match[1], theirs


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
