"""`aios run` and `aios_core.install()` for LangChain. Imports nothing of it."""

from typing import Final

from aios_core.adapting import Launcher

launcher: Final = Launcher(
    "LangChain",
    patches={
        "substitute": {"langchain_openai.chat_models.base": "langchain_aios.substitution:patch"}
    },
    tested={"langchain-core": ("1.",), "langchain-openai": ("1.",)},
)
