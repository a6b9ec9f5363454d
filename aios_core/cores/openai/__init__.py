"""OpenAI-compatible endpoints as cores.

    core             `OpenAICore`, loaded on first use: it needs the package `openai`
    dialect          what vLLM servers understand beyond the chat format
    wire             requests as bodies
    chunks           answers and fragments as deltas; `call_fragments` assigns those of tool calls
    errors           refusals as the kernel's errors
    event_stream     bytes of an answer as JSON texts
    refused_limits   token limits that a server refuses
    core_pause       how long an endpoint asked to wait
    send_trace       whether a request was sent
    prompt_counting  exact token counts of prompts
    vllm_metrics     KV memory of a vLLM server
    pressure_watch   when to ask a vLLM server for its KV memory
    certificates     the certificates that connections are checked against

Importing this package imports no client library.
"""
