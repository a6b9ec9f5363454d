"""Count a prompt's tokens exactly for models that run elsewhere.

A vLLM server counts with the model's own template and tokenizer (``/tokenize``). For other
servers a user may configure the model's tokenizer, a folder on this machine, which is
loaded and used in worker threads. Prompts with images, audio or files, and prompts that a
server refuses to count, have no count.

Source: vLLM's documentation of its server (`TokenizeChatRequest`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from aios_core.core import TEXT_ONLY
from aios_core.distribution import install_command
from aios_core.errors import ModelLoadError
from aios_core.messages import Message, kind_of_part
from aios_core.syscalls import LLMGenerate

log = logging.getLogger(__name__)


class LocalTokenizer:
    """The tokenizer and chat template in a folder. Loading reads files and never downloads."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # guards the tokenizer, which is not thread-safe everywhere
        self._tokenizer: Any = None

    def __repr__(self) -> str:
        return f"<LocalTokenizer {self._folder!r}>"

    def load(self) -> None:
        """Load the tokenizer; blocks. Raises `ModelLoadError`."""
        if not Path(self._folder).is_dir():
            raise ModelLoadError(
                f"tokenizer: got {self._folder!r}; allowed: a folder on this machine"
            )
        try:
            from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import, and an extra
        except ImportError as exc:
            why = (
                f"tokenizer: needs transformers; install it with: {install_command('transformers')}"
            )
            raise ModelLoadError(why) from exc
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        except Exception as exc:
            raise ModelLoadError(f"tokenizer: cannot load {self._folder!r}: {exc}") from exc

    def count(self, request: LLMGenerate) -> int | None:
        """Count a prompt's tokens; blocks. None if the chat template refuses the prompt."""
        options = request.extra.get("chat_template_kwargs")
        with self._lock:
            try:
                text = self._tokenizer.apply_chat_template(
                    [_for_template(message) for message in request.messages],
                    tools=[tool.to_dict() for tool in request.tools] or None,
                    add_generation_prompt=True,
                    tokenize=False,
                    **(options if isinstance(options, dict) else {}),
                )
                return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
            except Exception as exc:  # noqa: BLE001 - a template is third-party code
                log.debug("%r cannot count a prompt: %r", self, exc)
                return None


class CountCache:
    """A cache of prompt counts, since the buffers of frameworks count messages repeatedly."""

    def __init__(self, size: int = 4_096) -> None:
        self._size = size
        self._counts: OrderedDict[bytes, int] = OrderedDict()  # by the digest of a prompt

    def __len__(self) -> int:
        return len(self._counts)

    async def get(
        self, body: Mapping[str, Any], count: Callable[[], Awaitable[int | None]]
    ) -> int | None:
        """Return the count of a prompt, from `count` if it is not known. None is not kept."""
        key = sha256(json.dumps(body, sort_keys=True).encode()).digest()
        if (known := self._counts.get(key)) is not None:
            self._counts.move_to_end(key)
            return known
        counted = await count()
        if counted is not None:
            self._counts[key] = counted
            if len(self._counts) > self._size:
                self._counts.popitem(last=False)
        return counted

    def clear(self) -> None:
        """Drop all counts, since another server with another tokenizer may answer from now on."""
        self._counts.clear()


async def count_at_server(
    http: httpx.AsyncClient,
    root: str,
    body: Mapping[str, Any],
    *,
    key: str | None,
    patience_s: float,
) -> int | None:
    """Let a vLLM server count a prompt's tokens; None if it does not."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with asyncio.timeout(patience_s):
            reply = await http.post(f"{root}/tokenize", json=dict(body), headers=headers)
        count = reply.json().get("count") if reply.status_code == httpx.codes.OK else None
    except (TimeoutError, httpx.HTTPError, ValueError, AttributeError) as exc:
        log.debug("%s does not count tokens: %r", root, exc)
        return None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def is_countable(request: LLMGenerate) -> bool:
    """Return whether the prompt is text alone, which a tokenizer can count."""
    kinds = {kind_of_part(part) for message in request.messages for part in message.parts}
    return kinds <= TEXT_ONLY


def tokenize_body(request: LLMGenerate, model: str) -> dict[str, Any]:
    """Build the body of a vLLM server's request to count a prompt."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [message.to_dict() for message in request.messages],
        "add_generation_prompt": True,
    }
    if request.tools and request.chosen_tool != "none":
        body["tools"] = [tool.to_dict() for tool in request.tools]
    if "chat_template_kwargs" in request.extra:
        body["chat_template_kwargs"] = request.extra["chat_template_kwargs"]
    return body


def _for_template(message: Message) -> dict[str, Any]:
    out = message.to_dict()
    out["content"] = message.content
    for call in out.get("tool_calls", ()):
        body = call.get("function", {})
        try:
            body["arguments"] = json.loads(body["arguments"])
        except (KeyError, ValueError):
            continue  # show the model its malformed arguments unchanged
    return out
