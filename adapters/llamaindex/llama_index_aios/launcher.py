"""`aios run` and `install()` for LlamaIndex's OpenAI classes and defaults. Imports none of it."""

from typing import Final

from aios_core.adapting import Launcher

launcher: Final = Launcher(
    "LlamaIndex",
    patches={
        "substitute": {
            "llama_index.core": "llama_index_aios.defaults:substitute",
            "llama_index.embeddings.openai.base": "llama_index_aios.openai_embedding:substitute",
            "llama_index.llms.openai.base": "llama_index_aios.openai_llm:substitute",
            "llama_index.llms.openai.responses": "llama_index_aios.openai_responses:substitute",
        },
        "admit": {
            "llama_index.embeddings.openai.base": "llama_index_aios.openai_embedding:admit",
            "llama_index.llms.openai.base": "llama_index_aios.admission:admit",
            "llama_index.llms.openai.responses": "llama_index_aios.admission:admit_responses",
        },
    },
    tested={"llama-index-core": ("0.14.",)},
)
