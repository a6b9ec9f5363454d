"""OpenAI-compatible endpoints as cores.

    core             `OpenAICore`, loaded on first use because it needs the package `openai`
    wire             write requests as JSON bodies
    event_stream     split the bytes of an answer into JSON texts
    chunks           translate answers and fragments to deltas
    call_fragments   assign fragments of a stream to their tool calls
    errors           translate refusals to kernel errors
    dialect          extensions that vLLM servers understand
    refused_limits   remember token limits that a server refuses
    core_pause       how long an endpoint asked everyone to wait (HTTP 429)
    send_trace       whether a request was sent, and so may have cost something
    prompt_counting  count prompts exactly for models that run elsewhere
    vllm_metrics     read the KV memory of a vLLM server from its metrics page
    pressure_watch   ask for these metrics as long as calls run
    certificates     the certificates that connections are checked against

Importing this package imports no client library.
"""
