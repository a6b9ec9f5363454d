"""Run LlamaIndex on the AIOS kernel.

    from llama_index.llms.aios import AIOSLLM

LlamaIndex finds integrations below `llama_index`; those modules import what is implemented here.

    llm            `AIOSLLM`: the LLM, answered by the kernel
    embeddings     `AIOSEmbedding`: vectors by the kernel's embedder
    chat_store     `AIOSChatStore`: conversations in an agent's memory
    vector_store   `AIOSVectorStore`: nodes in a collection of the kernel
    tools          the kernel's tools in LlamaIndex, and LlamaIndex's through the kernel
    callers        find the agent that a call belongs to
    translation    messages, tools and answers, both ways
    launcher       the patches of `aios run` and `install()`
    openai_llm     mode "substitute" of OpenAI's LLM; also `openai_responses`, `openai_embedding`
    passthrough    mode "passthrough": models keep their own provider
    defaults       the kernel's models where a program names none
    unserved       warn of an LLM that no patch serves
    demo_agents    LlamaIndex's agents in `aios demo`

What is common to all adapters is in `aios_adapters`. Importing this package starts nothing.
"""
