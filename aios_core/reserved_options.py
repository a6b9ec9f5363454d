"""The options that the kernel decides, which no other option may set again.

Access, budget, guard, audit and scheduling decide by the arguments of a call. A
backend's own names for the same things, passed in addition, would undo what was
decided; so they are refused, and the error names the argument to use. One table
holds them for the kernel's own `extra` and for all that frameworks pass on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aios_core.errors import InvalidRequest

#: The names that OpenAI, Anthropic, vLLM, SGLang, Ollama and llama.cpp use, and the kernel's
#: argument for each.
ARGUMENT_OF: Final[Mapping[str, str]] = {
    "model": "model",
    "model_name": "model",
    "model_id": "model",
    "engine": "model",
    "deployment_id": "model",
    "lora_path": "model",
    "lora_request": "model",
    "adapter_id": "model",
    "messages": "messages",
    "prompt": "messages",
    "input": "messages",
    "input_ids": "messages",
    "prompt_token_ids": "messages",
    "prompt_embeds": "messages",
    "instructions": "messages",
    "system": "messages",
    "tools": "tools",
    "functions": "tools",
    "mcp_servers": "tools",
    "tool_choice": "tool_choice",
    "function_call": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
    "response_format": "response_format",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "n": "n",
    "best_of": "n",
    "num_return_sequences": "n",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "stop_sequences": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "logit_bias": "logit_bias",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "priority": "priority",
    "timeout": "timeout_s",
    "request_timeout": "timeout_s",
}

#: Keys that belong to the connection between the kernel and a backend only.
OF_THE_CONNECTION: Final[Mapping[str, str]] = {
    "stream": "`llm.stream` streams",
    "stream_options": "the kernel asks for usage itself",
    "extra_headers": "the configuration of the core defines how its endpoint is reached",
    "extra_query": "the configuration of the core defines how its endpoint is reached",
    "extra_body": "put its keys into `extra` itself",
    "api_key": "the configuration of the core holds the key",
    "api_base": "the configuration of the core defines its endpoint",
    "user_config": "the configuration of the core defines its endpoint",
    "base_url": "the configuration of the core defines its endpoint",
    "use_beam_search": "it computes several answers for one; use the argument `n`",
    "continue_final_message": "the kernel resumes answers itself",
    "add_generation_prompt": "the kernel resumes answers itself",
    "return_token_ids": "the kernel asks for them itself",
    "echo": "it returns the prompt as if it were the answer",
}


#: Options with which a gateway (OpenRouter, LiteLLM) may use another model than the requested one.
#: OpenRouter's `provider` is not among them: it selects who hosts the model.
OF_ROUTING: Final = frozenset(
    {"models", "preset", "route", "fallbacks", "fallback_models", "model_list"}
    | {"default_fallbacks", "context_window_fallbacks", "content_policy_fallbacks"}
    | {"custom_llm_provider", "model_group_alias"}
)

#: Keys below which gateways and servers (LiteLLM, Vercel's gateway, Ollama, TGI, Google) read
#: options again. What is below other keys, such as a schema or metadata, decides nothing.
OF_NESTED_OPTIONS: Final = frozenset(
    {"options", "parameters", "sampling_params", "generation_config", "generationconfig"}
    | {"litellm_params", "router_settings", "router_settings_override"}
    | {"provideroptions", "provider_options", "gateway"}
)
_DECIDED: Final = frozenset({"model", "messages", "tools", "max_tokens", "n", "priority"})


def require_free_extra(extra: Mapping[str, Any], within: str = "extra") -> None:
    """Raise `InvalidRequest` if `extra` would set again what the kernel decided.

    Servers written in Go ignore the case of keys, so case does not matter here. `within` is the
    name of the mapping in messages. Nested sampling settings, such as a temperature, pass: no
    decision depends on them.
    """
    is_nested = within != "extra"
    for key, value in extra.items():
        name = str(key).strip().casefold()
        argument = ARGUMENT_OF.get(name)
        if argument is not None and (argument in _DECIDED or not is_nested):
            raise InvalidRequest(
                f"{within}: {key!r} is decided by the kernel; use the argument {argument!r} instead"
            )
        if (reason := OF_THE_CONNECTION.get(name)) is not None:
            raise InvalidRequest(f"{within}: {key!r} cannot be set by a call: {reason}")
        if name in OF_ROUTING:
            raise InvalidRequest(
                f"{within}: {key!r} can let another model answer than the one that was allowed; "
                "use the argument 'model', and 'fallbacks' in the kernel's configuration"
            )
        if name in OF_NESTED_OPTIONS and isinstance(value, Mapping):
            require_free_extra(value, f"{within}.{key}")
