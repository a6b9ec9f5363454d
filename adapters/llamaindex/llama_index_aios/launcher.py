"""List the patches of `aios run` and `install()` for LlamaIndex, without importing it."""

from typing import Final

from aios_core.launch import Launcher

_WATCH: Final = {"llama_index.core.base.llms.base": "llama_index_aios.unserved:watch"}

launcher: Final = Launcher(
    "LlamaIndex",
    patches={
        "substitute": {
            **_WATCH,
            "llama_index.core": "llama_index_aios.defaults:patch_substitute",
            "llama_index.embeddings.openai.base": (
                "llama_index_aios.openai_embedding:patch_substitute"
            ),
            "llama_index.llms.anthropic.base": "llama_index_aios.anthropic_llm:patch_substitute",
            "llama_index.llms.openai.base": "llama_index_aios.openai_llm:patch_substitute",
            "llama_index.llms.openai.responses": (
                "llama_index_aios.openai_responses:patch_substitute"
            ),
        },
        "passthrough": {
            **_WATCH,
            "llama_index.embeddings.openai.base": (
                "llama_index_aios.openai_embedding:patch_passthrough"
            ),
            "llama_index.llms.anthropic.base": (
                "llama_index_aios.anthropic_passthrough:patch_passthrough"
            ),
            "llama_index.llms.openai.base": "llama_index_aios.passthrough:patch_passthrough",
            "llama_index.llms.openai.responses": (
                "llama_index_aios.passthrough:patch_responses_passthrough"
            ),
        },
    },
    tested={"llama-index-core": ("0.14.",)},
)
