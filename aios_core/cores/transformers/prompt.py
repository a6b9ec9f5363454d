"""Turn a request into token ids, with the model's chat template and tokenizer.

Requests that the template cannot express, and tools without a valid JSON schema, are
refused with `InvalidRequest`. Thread-safe: one request is tokenized at a time.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from jinja2 import TemplateError
from jsonschema import Draft202012Validator, SchemaError

from aios_core.cores.hermes import CLOSE, OPEN
from aios_core.cores.transformers.loading import LoadedModel
from aios_core.errors import ContextOverflow, InvalidRequest
from aios_core.messages import Message, ToolSpec
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.schema_cost import require_bounded, without_values

_PLAIN_TEMPLATE: Final = (  # for base models, which have none
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_TAKES_TEXT: Final = re.compile(r"arguments'?\]?\s+is\s+string")
_PROBE: Final = ToolSpec("aios_probe", "a tool", {"type": "object", "properties": {}})


class PromptEncoder:
    """An encoder of prompts for one model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._lock = threading.Lock()  # guards the tokenizer, which is not thread-safe everywhere
        self._template = _template_of(loaded.tokenizer)
        self.has_template = self._template is not None
        self._longest_token = max(map(len, loaded.tokenizer.get_vocab()), default=1)  # characters
        self.takes_tools = OPEN in (self._template or "") and self._offers_tools()

    def encode(self, request: LLMGenerate) -> tuple[int, ...]:
        """Return the token ids of a request's prompt.

        Raises:
            InvalidRequest: the template or the tokenizer refuses it, or a tool is invalid.
            ContextOverflow: the prompt leaves no token for the answer.
        """
        tools = () if request.chosen_tool == "none" else request.tools
        self._refuse_what_cannot_fit(request)
        self._check_tools(tools)
        ids = self.tokenize(self.render(request, tools))
        if len(ids) >= self._loaded.context_window:
            raise ContextOverflow(len(ids), self._loaded.context_window, self._loaded.name)
        if not ids:
            raise InvalidRequest("the prompt is empty")
        return ids

    def _refuse_what_cannot_fit(self, request: LLMGenerate) -> None:
        """Raise `ContextOverflow` without tokenizing, if the number of characters proves it."""
        num_chars = sum(len(message.content) for message in request.messages)
        at_least = num_chars // self._longest_token
        if at_least >= self._loaded.context_window:
            raise ContextOverflow(at_least, self._loaded.context_window, self._loaded.name)

    def render(self, request: LLMGenerate, tools: Sequence[ToolSpec]) -> str:
        """Render a prompt as text."""
        options = request.extra.get("chat_template_kwargs") or {}
        try:
            text = self._loaded.tokenizer.apply_chat_template(
                [self._to_dict(message) for message in request.messages],
                tools=[_spelled_out(tool) for tool in tools] or None,
                chat_template=self._template or _PLAIN_TEMPLATE,
                add_generation_prompt=True,
                tokenize=False,
                **options,
            )
        except (TemplateError, TypeError, ValueError, KeyError, RecursionError) as exc:
            raise InvalidRequest(f"the model's chat template refuses the request: {exc}") from exc
        return str(text)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text. Raises `InvalidRequest` if it is not valid Unicode."""
        try:
            with self._lock:
                return tuple(self._loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        except (UnicodeError, TypeError) as exc:  # a lone surrogate, for one
            raise InvalidRequest(f"the prompt is not valid Unicode: {exc}") from exc

    def decoder(self) -> Callable[[Sequence[int]], str]:
        """Return a function from token ids to text that keeps special tokens and spaces."""
        tokenizer = self._loaded.tokenizer
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            return lambda ids: str(backend.decode(ids, skip_special_tokens=False))
        return lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def hidden_ids(self) -> frozenset[int]:
        """Return the control tokens, which are not part of an answer's text."""
        known = getattr(self._loaded.tokenizer, "added_tokens_decoder", {})
        return frozenset(
            token
            for token, about in known.items()
            if about.special and about.content not in {OPEN, CLOSE}
        )

    def _check_tools(self, tools: Sequence[ToolSpec]) -> None:
        if tools and not self.takes_tools:
            raise InvalidRequest(f"the chat template of {self._loaded.name} cannot offer tools")
        for tool in tools:
            require_bounded(f"tool {tool.name!r}", tool.parameters)
            try:
                Draft202012Validator.check_schema(without_values(tool.parameters))
            except (SchemaError, TypeError, ValueError, RecursionError) as exc:
                why = exc.message if isinstance(exc, SchemaError) else repr(exc)
                raise InvalidRequest(
                    f"tool {tool.name!r}: parameters are not a JSON schema: {why:.200}"
                ) from exc

    def _to_dict(self, message: Message) -> dict[str, Any]:
        """Convert a message for the template: arguments as an object, unless it needs text."""
        out = message.to_dict()
        if out["role"] == "developer":  # templates use the older name
            out["role"] = "system"
        out["content"] = message.content
        if not _TAKES_TEXT.search(self._template or ""):
            for call in out.get("tool_calls", ()):
                function = call["function"]
                function["arguments"] = _parsed(function["arguments"])
        return out

    def _offers_tools(self) -> bool:
        request = LLMGenerate((Message("user", "hello"),))
        try:
            return _PROBE.name in self.render(request, (_PROBE,))
        except InvalidRequest:
            return False


def _spelled_out(tool: ToolSpec) -> dict[str, Any]:
    """Convert a tool for the template, with every key that templates may look up."""
    parameters = {"type": "object", "properties": {}, **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _template_of(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several, by use
        template = template.get("tool_use") or template.get("default")
    return template if isinstance(template, str) else None


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # show the model its malformed arguments unchanged
