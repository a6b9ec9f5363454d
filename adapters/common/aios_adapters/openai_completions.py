"""Translate OpenAI's old completions (prompts without roles) to the kernel and back.

The kernel's cores are chat models, so a prompt becomes a user's message. Options that
only the old endpoint has (repeating the prompt, filling a gap, choosing the best of several)
are left out, with one notice each.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from aios_adapters.openai_format import ChunkWriter, read_request, write_completion
from aios_core.errors import InvalidRequest
from aios_core.launch.notices import give_notice
from aios_core.messages.conversation import Completion, Delta
from aios_core.redaction import shown_repr

log = logging.getLogger(__name__)

_OLD: Final = ("best_of", "echo", "suffix")


def read_prompt_request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the body of a completion request as the arguments of `Agent.llm.generate`.

    Raises:
        InvalidRequest: there are several prompts, tokens instead of text, or an invalid option.
    """
    body = {key: value for key, value in raw.items() if value is not None}
    prompt = body.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise InvalidRequest(f"prompt: got {shown_repr(prompt)}; allowed: one text")
    for name in _OLD:
        if body.pop(name, None):
            _name_unused(name)
    if (num_likely := body.pop("logprobs", None)) is not None:
        body |= {"logprobs": True, "top_logprobs": num_likely or None}
    return read_request({**body, "messages": [{"role": "user", "content": prompt}]})


def _name_unused(name: str) -> None:
    give_notice(
        log,
        (__name__, name),
        f"{name!r} of a completion is not sent: only the old completion endpoint has it, and "
        "the kernel's cores are chat models",
    )


def write_text_completion(completion: Completion) -> dict[str, Any]:
    """Return a whole answer as a `text_completion`."""
    return _as_text(write_completion(completion), "message")


class TextChunkWriter(ChunkWriter):
    """Writes a stream as chunks of a `text_completion`."""

    def delta(self, delta: Delta) -> dict[str, Any]:
        """Return the chunk of one delta."""
        return _as_text(super().delta(delta), "delta")

    def end(self, completion: Completion) -> dict[str, Any]:
        """Return the chunk with the finish reasons; it follows the last delta."""
        return _as_text(super().end(completion), "delta")

    def usage(self, completion: Completion) -> dict[str, Any]:
        """Return the chunk with the usage; it comes last and has no choice."""
        return _as_text(super().usage(completion), "delta")


def _as_text(answer: dict[str, Any], content_key: str) -> dict[str, Any]:
    choices = [
        {
            **{key: value for key, value in choice.items() if key != content_key},
            "text": choice[content_key].get("content") or "",
            "logprobs": old_logprobs(choice["logprobs"]),
        }
        for choice in answer["choices"]
    ]
    return {**answer, "object": "text_completion", "choices": choices}


def old_logprobs(logprobs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the log probabilities of an answer in the format of the old completions."""
    tokens = (logprobs or {}).get("content") or ()
    if not tokens:
        return None
    likely = [token.get("top_logprobs") or () for token in tokens]
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{one["token"]: one["logprob"] for one in each} for each in likely],
    }
