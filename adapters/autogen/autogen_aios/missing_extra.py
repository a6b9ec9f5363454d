"""What is said where a framework is not installed. Imports none of them."""

from __future__ import annotations


def missing_extra_error(module: str, cause: ModuleNotFoundError, extra: str) -> ImportError:
    """The error of a module of ours that cannot be imported without an extra of this package."""
    framework = (cause.name or "").partition(".")[0]
    return ImportError(
        f"{module} needs {framework}, which is not installed; "
        f"install it with: pip install 'autogen-aios[{extra}]'",
        name=cause.name,
    )
