"""Read the answer limits of a provider's client, and name the limit as its provider does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

_LIMITS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "num_predict",
)
_NUMBERS: Final = ("n", "best_of")


def read_answer_limits(*options: Mapping[str, Any], num_prompts: int = 1) -> dict[str, int | None]:
    """Return the arguments `max_tokens` and `n` of the kernel's call, from a client's options.

    Args:
        options: under a provider's names; later ones override earlier ones, `extra_body` all.
        num_prompts: how many prompts the one call answers.
    """
    given = [*options, _extra_body(options)]
    limits = [_count(one[name]) for one in given for name in _LIMITS if one.get(name) is not None]
    numbers = {name: one[name] for one in given for name in _NUMBERS if name in one}
    num_answers = num_prompts * max([1, *filter(None, map(_count, numbers.values()))])
    return {
        "max_tokens": limits[-1] if limits else None,
        "n": num_answers if num_answers > 1 else None,
    }


def limit_parameter(base_url: object) -> str:
    """Return the name of the answer limit in the API of the provider at a URL."""
    host = urlsplit(str(base_url)).hostname or ""
    is_openai = f".{host}".endswith((".openai.com", ".openai.azure.com"))
    return "max_completion_tokens" if is_openai else "max_tokens"


def _extra_body(options: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the options that OpenAI's client merges into the body last."""
    bodies = [one["extra_body"] for one in options if "extra_body" in one]
    return bodies[-1] if bodies and isinstance(bodies[-1], Mapping) else {}


def _count(value: object) -> int | None:
    """Return a number of tokens or answers; None for one that means no limit, such as -1."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    return None
