"""List the patches of `aios run` and `aios_core.install()` for LangChain, without importing it."""

from typing import Final

from aios_core.launch import Launcher

_UNSERVED: Final = {
    "langchain_core.language_models.chat_models": "langchain_aios.unserved:watch_chat_models",
    "langchain_core.language_models.llms": "langchain_aios.unserved:watch_completion_models",
}

launcher: Final = Launcher(
    "LangChain",
    patches={
        "substitute": {
            **_UNSERVED,
            "langchain_anthropic.chat_models": "langchain_aios.anthropic_chat:patch_substitute",
            "langchain_openai.chat_models.base": "langchain_aios.substitute:patch_substitute",
            "langchain_openai.chat_models.azure": "langchain_aios.substitute:patch_azure",
            "langchain_openai.embeddings.base": "langchain_aios.substitute:patch_embeddings",
            "langchain_openai.embeddings.azure": (
                "langchain_aios.substitute:patch_azure_embeddings"
            ),
            "langchain_openai.llms.azure": "langchain_aios.openai_completions:patch_azure",
            "langchain_openai.llms.base": "langchain_aios.openai_completions:patch_substitute",
        },
        "passthrough": {
            **_UNSERVED,
            "langchain_anthropic.chat_models": "langchain_aios.passthrough:patch_anthropic",
            "langchain_openai.chat_models.azure": "langchain_aios.passthrough:patch_passthrough",
            "langchain_openai.chat_models.base": "langchain_aios.passthrough:patch_passthrough",
            "langchain_openai.embeddings.base": (
                "langchain_aios.passthrough_embeddings:patch_passthrough"
            ),
            "langchain_openai.llms.base": (
                "langchain_aios.passthrough_completions:patch_passthrough"
            ),
        },
    },
    tested={"langchain-core": ("1.",), "langchain-openai": ("1.",), "langchain-anthropic": ("1.",)},
)
