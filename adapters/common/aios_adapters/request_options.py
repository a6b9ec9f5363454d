"""Split the options of a framework's call by who decides them: kernel, backend or connection.

Frameworks pass named options, `model_kwargs`, `extra_body` and the like to a provider's
client. An option that the kernel uses becomes its argument, wherever it was written; an option
of the connection to the provider is kept apart, so that an adapter can give a notice; the rest
reaches the backend unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.reserved_options import ARGUMENT_OF, OF_THE_CONNECTION

# Options that are mappings of further options.
_NESTED: Final = ("model_kwargs", "extra_body")
# Options of the client itself, which it does not send.
_OF_THE_CLIENT: Final = frozenset({"stream_usage", "strict", "streaming"})


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """A call's options, split by who uses them."""

    arguments: dict[str, Any] = field(default_factory=dict)  # of `Agent.llm.generate`
    extra: dict[str, Any] = field(default_factory=dict)  # for the backend, as written
    dropped: dict[str, Any] = field(default_factory=dict)  # of the connection or the client


def split_request_options(raw: Mapping[str, Any]) -> RequestOptions:
    """Split options, including those in `model_kwargs` and `extra_body`.

    Options that are None count as unset. If an option is given twice, the value in `extra_body`
    wins, since OpenAI's client merges it last; otherwise the outer value wins.

    Raises:
        InvalidRequest: a nested value is not a mapping.
    """
    options = RequestOptions()
    for key, value in raw.items():
        if key in _NESTED or value is None:
            continue
        if (argument := ARGUMENT_OF.get(key)) is not None:
            options.arguments[argument] = value
        elif key in OF_THE_CONNECTION or key in _OF_THE_CLIENT:
            options.dropped[key] = value
        else:
            options.extra[key] = value
    for key in _NESTED:
        if raw.get(key) is not None:
            inner = split_request_options(_mapping(key, raw[key]))
            _merge(options, inner, is_over=key == "extra_body")
    return options


def _merge(options: RequestOptions, inner: RequestOptions, *, is_over: bool) -> None:
    for known, more in (
        (options.arguments, inner.arguments),
        (options.extra, inner.extra),
        (options.dropped, inner.dropped),
    ):
        known.update({key: more[key] for key in more if is_over or key not in known})


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{key}: got {shown_repr(value)}; allowed: a mapping")
    return value
