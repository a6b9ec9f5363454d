"""Run LangChain and LangGraph on the AIOS kernel.

    from langchain_aios import ChatAIOS

    agent = create_agent(ChatAIOS(), tools=[...])

Every LLM call is a syscall: scheduled among all agents, accounted, checked and cancellable.

    chat_models    `ChatAIOS`: the chat model
    embeddings     `AIOSEmbeddings`: vectors by the kernel's embedder
    checkpoints    `AIOSSaver`: LangGraph's checkpointer, with `checkpoint_keys`
    stores         `AIOSStore`: the key-value store of langchain-core
    graph_stores   `AIOSGraphStore`: LangGraph's long-term store, with `item_search`,
                   `item_values` and `ttl_sweeper`
    histories      `AIOSChatMessageHistory`; `caches` has `AIOSCache`
    vector_stores  `AIOSVectorStore`: documents in a collection of the kernel
    tools          the kernel's tools in LangChain, and LangChain's through the kernel
    callers        find the agent that a call belongs to
    translation    messages, tools and answers, both ways; `token_counts` counts them
    errors         kernel errors under LangChain's names
    launcher       the patches of `aios run` and `install()`
    substitute     mode "substitute" of `ChatOpenAI`, with the `openai_*` modules
    passthrough    mode "passthrough": models keep their own provider; also `passthrough_*`
    model_methods  hand the options of a call on to every way of calling a model
    unserved       warn of a model that no patch serves
    demo           `aios demo`

What is common to all adapters is in `aios_adapters`. Importing this package starts nothing.
"""

from typing import TYPE_CHECKING

from aios_adapters import export_lazily

if TYPE_CHECKING:
    from langchain_aios.caches import AIOSCache
    from langchain_aios.chat_models import ChatAIOS
    from langchain_aios.checkpoints import AIOSSaver
    from langchain_aios.embeddings import AIOSEmbeddings
    from langchain_aios.graph_stores import AIOSGraphStore
    from langchain_aios.histories import AIOSChatMessageHistory
    from langchain_aios.stores import AIOSStore
    from langchain_aios.tools import (
        AIOSMiddleware,
        AIOSTool,
        akernel_tools,
        kernel_tools,
        tool_node_wrappers,
        wrap_tools,
    )
    from langchain_aios.vector_stores import AIOSVectorStore

__all__ = [
    "AIOSCache",
    "AIOSChatMessageHistory",
    "AIOSEmbeddings",
    "AIOSGraphStore",
    "AIOSMiddleware",
    "AIOSSaver",
    "AIOSStore",
    "AIOSTool",
    "AIOSVectorStore",
    "ChatAIOS",
    "akernel_tools",
    "kernel_tools",
    "tool_node_wrappers",
    "wrap_tools",
]

if not TYPE_CHECKING:  # or type checkers would accept any name
    __getattr__ = export_lazily(
        {
            "AIOSCache": "langchain_aios.caches",
            "AIOSChatMessageHistory": "langchain_aios.histories",
            "AIOSEmbeddings": "langchain_aios.embeddings",
            "AIOSGraphStore": "langchain_aios.graph_stores",
            "AIOSMiddleware": "langchain_aios.tools",
            "AIOSSaver": "langchain_aios.checkpoints",
            "AIOSStore": "langchain_aios.stores",
            "AIOSTool": "langchain_aios.tools",
            "AIOSVectorStore": "langchain_aios.vector_stores",
            "ChatAIOS": "langchain_aios.chat_models",
            "akernel_tools": "langchain_aios.tools",
            "kernel_tools": "langchain_aios.tools",
            "tool_node_wrappers": "langchain_aios.tools",
            "wrap_tools": "langchain_aios.tools",
        },
        install="langchain-aios langgraph",
    )
