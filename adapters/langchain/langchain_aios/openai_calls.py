"""Translate one call of a chat model of `langchain_openai` to a syscall and back.

The model itself writes the body that it would send, and reads the answer that it would get;
this module translates both. So every field of its constructor and every argument of the call
has its effect as at the provider.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import openai
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils.pydantic import is_basemodel_subclass
from openai.types.chat import ChatCompletion

from aios_adapters import (
    ChunkWriter,
    as_chat_options,
    read_request,
    resolve_model,
    split_request_options,
    write_completion,
)
from aios_core import Choice, Completion, Delta, Kernel
from aios_core.launch import give_notice
from langchain_aios import openai_errors
from langchain_aios.translation import rest_of, thoughts_of

log = logging.getLogger(__name__)

# Fields of a model about the connection to its provider, or about OpenAI's Responses API.
_OF_THE_CONNECTION: Final = (
    *("openai_api_base", "openai_organization", "openai_proxy", "default_headers"),
    *("default_query", "http_client", "http_async_client", "max_retries"),
    *("include_response_headers", "use_previous_response_id"),
)
_OF_RESPONSES: Final = ("include", "truncation", "context_management", "previous_response_id")
_UNREMARKABLE: Final = frozenset({"stream", "stream_options", "stream_usage", "streaming"})
_ALIASES: Final = {"openai_api_base": "base_url", "openai_organization": "organization"}


class ChatCall:
    """One call as a syscall: its arguments, and the translation of its answer.

    Errors are raised under the kernel's, LangChain's and openai's names.
    """

    def __init__(
        self,
        theirs: Any,
        kernel: Kernel,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        kwargs: dict[str, Any],
    ) -> None:
        self._theirs = theirs
        self._wanted = kwargs.get("response_format")
        self._has_usage = wants_usage(theirs, kwargs)
        with self.translated():
            payload = self._payload(messages, stop, kwargs)
            self.request = read_request(payload)
        self.request["model"] = resolve_model(kernel, self.request["model"])
        if (timeout_s := seconds_of(theirs.request_timeout)) is not None:
            self.request.setdefault("timeout_s", timeout_s)
        self._writer = ChunkWriter(self.request["model"] or str(theirs.model_name))

    @staticmethod
    def translated() -> AbstractContextManager[None]:
        """Raise kernel errors that leave the block under openai's names as well."""
        return openai_errors.translated()

    def _payload(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the body that the model would send to chat completions."""
        model = self._theirs.model_copy(update={"use_responses_api": False})
        sent = {key: value for key, value in kwargs.items() if key != "stream_usage"}
        payload: dict[str, Any] = model._get_request_payload(messages, stop=stop, **sent)  # noqa: SLF001
        if _is_model(form := payload.get("response_format")):
            payload["response_format"] = strict_format(form)
        allowed = (*_OF_RESPONSES, "reasoning") if self._theirs.reasoning else _OF_RESPONSES
        of_responses = {key: payload.pop(key) for key in allowed if key in payload}
        options, unused = as_chat_options(of_responses)
        payload = {**options, **payload}
        dropped = split_request_options(payload).dropped.keys() - _UNREMARKABLE
        name_unused(self._theirs, _OF_THE_CONNECTION, (*unused, *sorted(dropped)))
        return payload

    # --- a whole answer -----------------------------------------------------------------------

    def result(self, completion: Completion) -> ChatResult:
        """Return the answer, as read by the model's own code."""
        result: ChatResult = self._theirs._create_chat_result(self._response(completion))  # noqa: SLF001
        for generation, choice in zip(result.generations, completion.all_choices, strict=True):
            generation.message.additional_kwargs.update(_extra_fields(choice))
            if completion.length_reason:
                about = generation.generation_info or {}
                generation.generation_info = {**about, "length_reason": completion.length_reason}
        return result

    def _response(self, completion: Completion) -> ChatCompletion:
        """Return the answer as openai's client does, with the parsed object if one was requested.

        Raises what the client raises if the object is missing.
        """
        response = ChatCompletion.construct(**write_completion(completion))
        if self._wanted is None:
            return response
        for choice in response.choices:
            if choice.finish_reason == "length":
                raise openai.LengthFinishReasonError(completion=response)
            if choice.finish_reason == "content_filter":
                raise openai.ContentFilterFinishReasonError
            said: Any = choice.message
            is_object = _is_model(self._wanted) and said.content and not said.refusal
            said.parsed = self._wanted.model_validate_json(said.content) if is_object else None
        return response

    # --- a stream -----------------------------------------------------------------------------

    def chunks(self, delta: Delta) -> Iterator[ChatGenerationChunk]:
        """Yield the chunks of a delta; of several answers only the first is streamed."""
        if not delta or delta.choice:
            return
        yield from self._read(
            self._writer.delta(delta), thoughts_of(delta.reasoning, delta.refusal)
        )

    def last_chunks(self, completion: Completion) -> Iterator[ChatGenerationChunk]:
        """Yield the last chunks: finish reason, usage, and the requested object."""
        response = self._response(completion)  # raises before the last chunk, as the client does
        end = self._writer.end(completion)
        end["choices"], end["model"] = end["choices"][:1], completion.model
        for chunk in self._read(end, rest_of(completion.message)):
            if completion.length_reason:
                about = chunk.generation_info or {}
                chunk.generation_info = {**about, "length_reason": completion.length_reason}
            yield chunk
        if self._wanted is not None:
            yield self._theirs._get_generation_chunk_from_completion(response)  # noqa: SLF001
        elif self._has_usage:
            yield from self._read(self._writer.usage(completion), {})

    def _read(
        self, raw: dict[str, Any], besides: Mapping[str, Any]
    ) -> Iterator[ChatGenerationChunk]:
        chunk = self._theirs._convert_chunk_to_generation_chunk(raw, AIMessageChunk, None)  # noqa: SLF001
        if chunk is not None:
            chunk.message.additional_kwargs.update(besides)
            yield chunk


def _extra_fields(choice: Choice) -> dict[str, Any]:
    """Return the parts of an answer that OpenAI's own messages have no field for."""
    rest = rest_of(choice.message)
    rest.pop("audio", None)  # messages have a field for it
    return {**thoughts_of(choice.message.reasoning, None), **rest}


def wants_usage(theirs: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a stream reports its usage: yes, unless the program turns it off."""
    said = {key: kwargs[key] for key in ("stream_usage", "stream_options") if key in kwargs}
    if not said and theirs.stream_usage is None:
        return True
    return bool(theirs._should_stream_usage(**said))  # noqa: SLF001 - as their stream does


def _is_model(form: Any) -> bool:
    return isinstance(form, type) and is_basemodel_subclass(form)


def strict_format(model: Any) -> dict[str, Any]:
    """Return the `response_format` that openai's client makes of a pydantic class."""
    schema = openai.pydantic_function_tool(model)["function"]["parameters"]
    inside = {"schema": schema, "name": model.__name__, "strict": True}
    return {"type": "json_schema", "json_schema": inside}


def seconds_of(timeout: Any) -> float | None:
    """Return the longest wait that a client's timeout allows, in seconds; None for no limit.

    Args:
        timeout: a number, several numbers, or an `httpx.Timeout`.
    """
    if isinstance(timeout, int | float):
        return float(timeout)
    if isinstance(timeout, tuple | list):
        parts = timeout
    else:
        parts = [getattr(timeout, name, None) for name in ("connect", "read", "write", "pool")]
    waits = [float(part) for part in parts if isinstance(part, int | float)]
    return max(waits, default=None)


def name_unused(theirs: Any, fields: Collection[str], keys: Collection[str] = ()) -> None:
    """Give one notice of a substituted model's options that the kernel's cores do not use."""
    allowed = [
        _ALIASES.get(name, name)
        for name in fields
        if name in theirs.model_fields_set and getattr(theirs, name, None)
    ]
    if names := (*allowed, *keys):
        kind = type(theirs).__name__
        give_notice(
            log,
            (__name__, kind, names),
            f"the kernel's cores answer for {kind} and do not use {', '.join(names)}; set options "
            "of the connection to a provider in the core's configuration (aios.toml)",
        )
