"""`aios run` and `install()` for LlamaIndex: programs with its OpenAI LLM run on the kernel."""

from aios_core.adapting import Launcher

launcher = Launcher(
    "LlamaIndex",
    {"substitute": {"llama_index.llms.openai.base": "llama_index_aios.openai_llm:substitute"}},
    tested={"llama-index-core": ("0.14.",)},
)
