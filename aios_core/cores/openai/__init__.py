"""OpenAI-compatible endpoints as cores.

    core             `OpenAICore`, loaded on first use because it needs the package `openai`
    wire             write requests as JSON bodies
    chunks           translate answers and fragments to deltas
    call_fragments   assign fragments of a stream to their tool calls
    dialect          extensions that vLLM servers understand
    refused_limits   remember token limits that a server refuses
    prompt_counting  count prompts exactly for models that run elsewhere
    engine_signals   what an engine's page of metrics shows of its KV memory and prefix cache
    vllm_metrics     read it from the page of a vLLM server
    sglang_metrics   read it from the page of an SGLang server
    vllm_version     ask a vLLM server for its version
    metrics_watch    ask for that page when the core starts and as long as calls run

Importing this package imports no client library.
"""
