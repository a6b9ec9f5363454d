"""Make the kernel's models LlamaIndex's defaults, which are OpenAI's otherwise.

`Settings.llm` and `Settings.embed_model`, if unset, are an `AIOSLLM` and an
`AIOSEmbedding`, and prompts are cut by the core's own count of tokens. They need no key and no
other distribution. A default that LlamaIndex has resolved stays in `Settings`.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any

from aios_core.launch import Patches
from llama_index_aios.embeddings import AIOSEmbedding
from llama_index_aios.llm import AIOSLLM


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Make the kernel's models the defaults of `llama_index.core`."""
    settings = import_module("llama_index.core.settings")
    resolve_llm, resolve_embed_model = settings.resolve_llm, settings.resolve_embed_model

    def llm_or_ours(llm: Any = None, callback_manager: Any = None) -> Any:
        return AIOSLLM() if _is_default(llm) else resolve_llm(llm, callback_manager)

    def embed_model_or_ours(embed_model: Any = None, callback_manager: Any = None) -> Any:
        if _is_default(embed_model):
            return AIOSEmbedding()
        return resolve_embed_model(embed_model, callback_manager)

    patches.replace(settings, "resolve_llm", llm_or_ours)
    patches.replace(settings, "resolve_embed_model", embed_model_or_ours)
    if module.global_tokenizer is None:
        patches.replace(module, "global_tokenizer", AIOSLLM().tokenizer)


def _is_default(asked: Any) -> bool:
    """Return whether LlamaIndex asks for its default; its own tests ask for mocks."""
    return isinstance(asked, str) and asked == "default" and not os.getenv("IS_TESTING")
