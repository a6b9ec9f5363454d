"""Refuse requests that an in-process core cannot serve, before they are scheduled."""

from __future__ import annotations

from aios_core.core import TEXT_ONLY
from aios_core.errors import InvalidRequest
from aios_core.messages import kind_of_part
from aios_core.syscalls import LLMGenerate


def require_supported(core: str, request: LLMGenerate) -> None:
    """Raise `InvalidRequest` for parts, tools or options that a local text model lacks."""
    for position, message in enumerate(request.messages):
        kinds = {kind_of_part(part) for part in message.parts} - TEXT_ONLY
        if "audio" in message.extra and message.extra["audio"] is not None:
            kinds.add("audio")
        if kinds:
            article = "an" if min(kinds)[0] in "aeiou" else "a"
            raise InvalidRequest(
                f"core {core!r} cannot take {article} {min(kinds)} part (message {position}); "
                "allowed: text; for other parts, use a model on an endpoint"
            )
    for tool in request.tools:
        if tool.kind != "function":
            raise InvalidRequest(
                f"core {core!r} cannot offer the tool {tool.name!r} of type {tool.kind!r}; "
                "allowed: functions"
            )
    if request.sampling.logprobs or request.sampling.top_logprobs:
        raise InvalidRequest(f"core {core!r} does not return logprobs; leave them unset")
    if request.sampling.num_choices > 1:
        raise InvalidRequest(
            f"n: got {request.sampling.n}; allowed: 1, since core {core!r} gives one answer a call"
        )
