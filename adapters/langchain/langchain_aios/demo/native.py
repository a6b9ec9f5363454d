"""Run the demo's agents without a kernel: a plain transformers chat model behind one lock.

In-process models are usually shared in this way: one agent generates to the end, and the
others wait in a queue.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from langchain_aios.demo.records import CallRecord, Run

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class NativeChat(BaseChatModel):
    """A chat model on `model.generate`, one call at a time, first come, first served."""

    path: Path
    max_tokens: int = 64

    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr()
    _lock: asyncio.Lock = PrivateAttr(default_factory=asyncio.Lock)
    _run: Run | None = PrivateAttr(default=None)
    _now: Callable[[], float] = PrivateAttr(default_factory=lambda: time.monotonic)

    def model_post_init(self, context: Any, /) -> None:
        """Load the model."""
        super().model_post_init(context)
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]

        self._model = AutoModelForCausalLM.from_pretrained(self.path)
        self._model.requires_grad_(requires_grad=False)
        self._tokenizer = AutoTokenizer.from_pretrained(self.path)

    def watch(self, run: Run, now: Callable[[], float]) -> None:
        """Write every call down in `run` from now on."""
        self._run, self._now = run, now

    @property
    def _llm_type(self) -> str:
        return "native"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; the model may choose."""
        del tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager
        import torch  # noqa: PLC0415 - heavy

        inputs = self._tokenizer.apply_chat_template(
            convert_to_openai_messages(messages),
            tools=kwargs.get("tools"),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = self._model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        text = self._tokenizer.decode(new, skip_special_tokens=False)
        return ChatResult(generations=[ChatGeneration(message=_parse(text))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        metadata = run_manager.metadata if run_manager else {}
        call = CallRecord(
            metadata.get("aios_agent", ""), metadata.get("aios_group", ""), self._now()
        )
        if self._run:
            self._run.calls.append(call)
        async with self._lock:
            call.run(self._now())
            result = await asyncio.to_thread(self._generate, messages, stop, None, **kwargs)
            call.end(self._now())
        return result


def _parse(text: str) -> AIMessage:
    """Text and tool calls of an answer."""
    text = text.partition("<|end|>")[0]
    calls = []
    for number, body in enumerate(_CALL.findall(text)):
        try:
            call = json.loads(body)
            calls.append({"name": call["name"], "args": call["arguments"], "id": f"call_{number}"})
        except (ValueError, KeyError, TypeError):
            return AIMessage(text)
    return AIMessage(_CALL.sub("", text), tool_calls=calls)
