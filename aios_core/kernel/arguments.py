"""Check what a caller passes to `Kernel`."""

from __future__ import annotations

from typing import Any, cast

from aios_core.config import KernelConfig
from aios_core.core import Core
from aios_core.errors import InvalidRequest, NoSuchObject
from aios_core.events import Observer
from aios_core.extensions import POLICIES
from aios_core.queueing.named_policy import build_policy
from aios_core.redaction import shown_repr
from aios_core.scheduler import Policy
from aios_core.untrusted.arguments import (
    is_a,
    require_items,
    require_text,
)


def checked_cores(cores: Any) -> tuple[Core, ...] | None:
    """Check the cores that a caller passed. Raises `InvalidRequest`."""
    if cores is None:
        return None
    given: tuple[Core, ...] = tuple(require_items("cores", cores))
    for core in given:
        require_methods(
            "core",
            False if core is None else core,
            "name",
            "models",
            "capabilities",
            "start",
            "close",
        )
    return given


def checked_observers(observers: Any) -> tuple[Observer, ...]:
    """Check the observers that a caller passed. Raises `InvalidRequest`."""
    given: tuple[Observer, ...] = tuple(require_items("observers", observers))
    for observer in given:
        if not callable(observer):
            raise InvalidRequest(f"observer: got {shown_repr(observer)}; allowed: a function")
    return given


def require_methods(name: str, value: object, *methods: str) -> None:
    """Raise `InvalidRequest` unless the value is None or an object with these names."""
    if value is not None and (
        is_a(value, type) or not all(_has(value, method) for method in methods)
    ):
        raise InvalidRequest(
            f"{name}: got {shown_repr(value)}; allowed: an object with {', '.join(methods)}"
        )


def _has(value: object, name: str) -> bool:
    """Return whether an object has an attribute, which may be one that cannot be read yet."""
    try:
        return hasattr(value, name)
    except Exception:  # noqa: BLE001 - a property that raises exists all the same
        return hasattr(type(value), name)


def require_a(name: str, value: object, kind: type) -> None:
    if not is_a(value, kind):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: a {kind.__name__}")


def chosen_policy(chosen: Any, config: KernelConfig) -> Policy:
    if is_a(chosen, Policy):
        return cast(Policy, chosen)
    if not POLICIES.has(require_text("policy", chosen)):
        raise NoSuchObject("policy", chosen, POLICIES.names())
    return build_policy(chosen, config.scheduler)
