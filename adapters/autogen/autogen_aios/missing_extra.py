"""Word the error for a framework that is not installed. Imports none of the frameworks."""

from __future__ import annotations


def missing_extra_error(module: str, cause: ModuleNotFoundError, extra: str) -> ImportError:
    """Return the error for a module of this package that needs an extra.

    Args:
        module: the module that cannot be imported.
        cause: the error of the failed import.
        extra: the extra of this package that provides the framework.
    """
    framework = (cause.name or "").partition(".")[0]
    return ImportError(
        f"{module} needs {framework}, which is not installed; "
        f"install it with: pip install 'autogen-aios[{extra}]'",
        name=cause.name,
    )
