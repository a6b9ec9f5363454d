"""Sampling settings: how the next token is chosen, and when generation stops.

A setting that a program leaves out stays None and is not sent: the backend's own
default applies. Cores in this process are greedy by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import (
    copy_mapping,
    exact_number,
    is_finite,
    reads_arguments,
    short_repr,
)


@dataclass(frozen=True, slots=True, repr=False)
class Sampling:
    """Sampling settings of one call, named as OpenAI and vLLM name them. None: not set."""

    max_tokens: int | None = None  # None: as many as the core's default and the window allow
    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    min_p: float | None = None
    logit_bias: Mapping[str, float] | None = field(default=None, hash=False)
    logprobs: bool | None = None  # return the log probabilities of the answer's tokens
    top_logprobs: int | None = None
    n: int | None = None  # answers to one prompt

    __repr__ = short_repr

    @reads_arguments
    def __post_init__(self) -> None:
        if self._is_unset():
            return
        self._require(_is_count(self.max_tokens), "max_tokens", ">= 1")
        self._require(_is_within(self.temperature, 0.0, 10.0), "temperature", "0 to 10")
        self._require(_is_positive_share(self.top_p), "top_p", "above 0, at most 1")
        is_all = self.top_k == -1  # vLLM's value for "all tokens"
        self._require(is_all or _is_count(self.top_k), "top_k", ">= 1, or -1 for all")
        self._require(_is_integer(self.seed), "seed", "a whole number")
        self._require(_are_texts(self.stop), "stop", "non-empty texts")
        for name in ("frequency_penalty", "presence_penalty", "repetition_penalty", "min_p"):
            self._require(_is_finite_or_none(getattr(self, name)), name, "a number")
        self._require(isinstance(self.logprobs, bool | None), "logprobs", "true or false")
        self._require(_is_integer(self.top_logprobs), "top_logprobs", "a whole number")
        self._require(_is_count(self.n), "n", ">= 1")
        if self.logit_bias is not None:
            bias = {str(key): value for key, value in _items(self.logit_bias)}
            self._require(
                all(map(_is_finite_or_none, bias.values())), "logit_bias", "a number a token"
            )
            object.__setattr__(self, "logit_bias", copy_mapping("logit_bias", bias))

    def _is_unset(self) -> bool:
        """Return whether nothing is set, as in most calls; there is nothing to check then."""
        return self.stop == () and _settings_of(self) == _NONE_SET

    @property
    def num_choices(self) -> int:
        """The number of answers wanted."""
        return self.n or 1

    @property
    def is_surely_greedy(self) -> bool:
        """Whether the caller asked for the likeliest token. False if unset: the backend decides."""
        return self.temperature == 0 or self.top_k == 1

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are set, by name."""
        said = {item.name: getattr(self, item.name) for item in fields(self)}
        said["stop"] = list(self.stop) or None
        return {name: value for name, value in said.items() if value is not None}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Sampling:
        """Read what `to_dict` wrote. Raises `TypeError` for unknown settings."""
        return cls(**{**raw, "stop": tuple(raw.get("stop") or ())})

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise InvalidRequest(
                f"{name}: got {shown_repr(getattr(self, name))}; allowed: {allowed}"
            )


_settings_of: Final = attrgetter(*(f.name for f in fields(Sampling) if f.name != "stop"))
_NONE_SET: Final = (None,) * (len(fields(Sampling)) - 1)
UNSET: Final = Sampling()


def _items(bias: object) -> list[tuple[Any, Any]]:
    if not isinstance(bias, Mapping):
        raise InvalidRequest(
            f"logit_bias: got {shown_repr(bias)}; allowed: a mapping from token ids"
        )
    return list(bias.items())


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(s, str) and s for s in values)


def _is_integer(value: object) -> bool:
    return value is None or (isinstance(value, Integral) and not isinstance(value, bool))


def _is_count(value: object) -> bool:
    return value is None or (_is_integer(value) and int(value) >= 1)  # type: ignore[call-overload]


def _is_finite_or_none(value: object) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return value is None or (is_number and is_finite(exact_number(value)))  # type: ignore[arg-type]


def _is_within(value: object, low: float, high: float) -> bool:
    return value is None or (_is_finite_or_none(value) and low <= value <= high)  # type: ignore[operator]


def _is_positive_share(value: object) -> bool:
    return value is None or (_is_within(value, 0.0, 1.0) and value > 0)  # type: ignore[operator]
