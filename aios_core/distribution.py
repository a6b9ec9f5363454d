"""The name under which the library is distributed, and the command that installs an extra.

The import name is `aios_core`; the distribution is `aios-kernel`, since the import name with a
hyphen belongs to another project on the package index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from typing import Final

DISTRIBUTION: Final = "aios-kernel"

_REQUIREMENT: Final = re.compile(r"(?P<name>[\w.-]+)\s*(?P<version>[^;\s]*)")

# The other packages of the project, and where a checkout has them. They are not published yet, so
# a bare `pip install NAME` would find nothing, or a third party's package.
FOLDERS: Final[Mapping[str, str]] = {
    "aios-plugins": "./plugins",
    "autogen-aios": "./adapters/autogen",
    "langchain-aios": "./adapters/langchain",
    "llama-index-aios": "./adapters/llamaindex",
    "open-interpreter-aios": "./adapters/open_interpreter",
}


def install_command(*extras: str) -> str:
    """Return the shell command that installs the library with these extras."""
    return f"pip install '{with_extras(*extras)}'"


def install_from_checkout(distribution: str) -> str:
    """Return the shell command that installs another package of the project from a checkout."""
    return f"pip install {FOLDERS[distribution]} (in a checkout of the project)"


def install_missing(library: str) -> str:
    """Return the shell command that installs a library that cannot be imported, by that name.

    A library that is required is installed in a version that fits.
    """
    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found and found["name"].replace("-", "_").lower() == library.lower():
            return f"pip install '{found['name']}{found['version']}'"
    return f"pip install {library}"


def with_extras(*extras: str) -> str:
    """Return the distribution as a requirement with these extras: ``aios-kernel[openai]``."""
    return f"{DISTRIBUTION}[{','.join(extras)}]" if extras else DISTRIBUTION
