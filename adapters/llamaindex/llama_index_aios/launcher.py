"""`aios run` and `install()` for LlamaIndex's OpenAI classes and defaults. Imports none of it."""

from typing import Final

from aios_core.launch import Launcher

_WATCH: Final = {"llama_index.core.base.llms.base": "llama_index_aios.unserved:watch"}

launcher: Final = Launcher(
    "LlamaIndex",
    patches={
        "substitute": {
            **_WATCH,
            "llama_index.core": "llama_index_aios.defaults:substitute",
            "llama_index.embeddings.openai.base": "llama_index_aios.openai_embedding:substitute",
            "llama_index.llms.openai.base": "llama_index_aios.openai_llm:substitute",
            "llama_index.llms.openai.responses": "llama_index_aios.openai_responses:substitute",
        },
        "admit": {
            **_WATCH,
            "llama_index.embeddings.openai.base": "llama_index_aios.openai_embedding:admit",
            "llama_index.llms.openai.base": "llama_index_aios.passthrough:admit",
            "llama_index.llms.openai.responses": "llama_index_aios.passthrough:admit_responses",
        },
    },
    tested={"llama-index-core": ("0.14.",)},
)
