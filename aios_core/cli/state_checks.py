"""What `aios doctor` finds about the state directory and its key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

from aios_core.cli.findings import Finding, Health, misconfigured
from aios_core.config import KernelConfig
from aios_core.errors import ConfigError, KernelError
from aios_core.state import MEMORY, State, read_key

_AREA = "state"


def check_state(config: KernelConfig) -> Iterator[Finding]:
    """Read the key, and open the directory as a kernel would. Makes no directory."""
    try:
        key = read_key(config.state.encryption_key)
    except ConfigError as exc:
        yield misconfigured(exc)
        return
    except KernelError as exc:
        yield Finding(_AREA, "key", Health.ERROR, str(exc), "state.encryption_key in aios.toml")
        return
    if key is not None:
        yield Finding(_AREA, "key", Health.OK, "values are encrypted")
    yield _directory(config.state.path(), key)


def _directory(name: str, key: bytes | None) -> Finding:
    if name == MEMORY:
        return Finding(
            _AREA, "directory", Health.OK, "in memory: nothing is kept after the program ends"
        )
    path = Path(name).expanduser().absolute()
    if not path.exists():
        return _not_made_yet(path)
    try:
        State.open(path, key=key).close()
    except KernelError as exc:
        if "is used by" in str(exc):  # nothing is wrong: it is looked after by another program
            return Finding(_AREA, "directory", Health.OK, f"{path}, open in another program")
        return Finding(_AREA, "directory", Health.ERROR, str(exc))
    return Finding(_AREA, "directory", Health.OK, str(path))


def _not_made_yet(path: Path) -> Finding:
    above = next(parent for parent in path.parents if parent.exists())
    try:
        Path(mkdtemp(prefix=".aios-", dir=above)).rmdir()
    except OSError as exc:
        message = f"{path} cannot be made in {above}: {exc.strerror}"
        return Finding(_AREA, "directory", Health.ERROR, message, "state.directory in aios.toml")
    return Finding(_AREA, "directory", Health.MISSING, f"{path}, made when it is first needed")
