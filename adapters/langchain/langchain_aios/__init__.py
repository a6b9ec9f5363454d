"""LangChain and LangGraph on the AIOS kernel.

    from langchain_aios import ChatAIOS

    agent = create_agent(ChatAIOS(), tools=[...])

Every call of the model is a syscall: scheduled among all agents, accounted,
checked, cancellable. Importing this starts nothing.
"""

from typing import TYPE_CHECKING

from aios_core.adapting import lazy_names

if TYPE_CHECKING:
    from langchain_aios.chat_models import ChatAIOS

__all__ = ["ChatAIOS"]

__getattr__ = lazy_names({"ChatAIOS": "langchain_aios.chat_models"}, install="langchain-aios")
