"""LangChain and LangGraph on the AIOS kernel.

    from langchain_aios import ChatAIOS

    agent = create_agent(ChatAIOS(), tools=[...])

Every call of the model is a syscall: scheduled among all agents, accounted,
checked, cancellable. Importing this starts nothing.
"""

from langchain_aios.chat_models import ChatAIOS

__all__ = ["ChatAIOS"]
