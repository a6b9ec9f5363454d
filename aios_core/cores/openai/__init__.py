"""OpenAI-compatible endpoints as cores.

    core             `OpenAICore`, loaded on first use because it needs the package `openai`
    wire             write requests as JSON bodies
    chunks           translate answers and fragments to deltas
    call_fragments   assign fragments of a stream to their tool calls
    dialect          extensions that vLLM servers understand
    refused_limits   remember token limits that a server refuses
    prompt_counting  count prompts exactly for models that run elsewhere
    vllm_metrics     read the KV memory of a vLLM server from its metrics page
    pressure_watch   ask for these metrics as long as calls run

Importing this package imports no client library.
"""
