"""Run classic AutoGen (`autogen`, AG2 Classic) on the kernel.

    from autogen_aios.classic import register

    register()
    llm_config = {"config_list": [{"model": "tiny", "model_client_cls": "AIOSModelClient"}]}

After `register`, the kernel serves every entry of a `config_list` that names
`AIOSModelClient`, in every client made of it: also when `register_function` makes an
agent's client again, and in the agents that a group chat makes to pick a speaker.
(`agent.register_model_client(AIOSModelClient)`, classic's own way, loses the client in
both cases.) `aios_core.install("autogen_classic")` serves all entries of all providers.

The agent of a call is the one that the entry names (`"aios": {"agent": ...}`), else the
agent that has a method on the call stack; the group chat's manager picks the speakers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from aios_adapters import (
    AgentDirectory,
    AgentRef,
    AgentSettings,
    Caller,
    current_caller,
    enclosing_instance,
    limit_parameter,
    passthrough_call,
    read_answer_limits,
    read_messages,
    read_request,
    register_provider_model,
    resolve_model,
    to_kernel_messages,
    write_completion,
)
from aios_core import Agent, Completion, Kernel, Usage, default_kernel
from aios_core.launch import Patches
from autogen_aios.agent_options import parse_agent_options
from autogen_aios.missing_extra import missing_extra_error
from autogen_aios.unserved import watch_classic

try:
    import autogen.oai.client as oai
    from autogen import ConversableAgent, GroupChatManager
    from autogen.events.client_events import StreamEvent
    from autogen.io.base import IOStream
    from openai.types.chat import ChatCompletion, ChatCompletionMessage

    from aios_adapters import openai_named
except ModuleNotFoundError as exc:
    raise missing_extra_error(__name__, exc, "classic") from exc

__all__ = ["AIOSModelClient", "register", "unregister"]

# The agents that a group chat makes for one choice of a speaker.
_PICKERS: Final = frozenset({"checking_agent", "speaker_selection_agent"})
# Keys of an entry about the connection to a provider, which the kernel does not use.
_OF_THE_PROVIDER: Final = frozenset(
    {"aios", "api_key", "api_type", "api_version", "base_url", "model_client_cls", "max_retries"}
    | {"tags", "price", "default_headers", "http_client", "azure_ad_token_provider"}
    | {"organization", "project", "default_query", "websocket_base_url", "routing_method"}
    | {"native_tool_calls", "webhook_secret", "workload_identity"}
)

_OPENAI: Final = "https://api.openai.com/v1"  # the endpoint of an entry without an address

directory: Final[AgentDirectory] = AgentDirectory()


class AIOSModelClient:
    """The client of one entry of a `config_list`, with the calls of `autogen.ModelClient`.

    Args:
        config: the entry. Its options have OpenAI's names; `"aios"` may hold the `agent`,
            `group`, `priority`, `weight` and `budget` of its calls.
        kernel: None for the default kernel of this process.
        is_substitute: whether the default model answers for a model that no core serves.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        kernel: Kernel | None = None,
        is_substitute: bool = False,
    ) -> None:
        self._agent = _agent_of(config)
        self._timeout = config.get("timeout")
        self._format = config.get("response_format")
        self._kernel = kernel
        self._is_substitute = is_substitute

    def create(self, params: dict[str, Any]) -> ChatCompletion:
        """Answer a request; if it is streamed, send each delta to classic's output too."""
        kernel = self._kernel or default_kernel()
        request = self._request(params, kernel)
        is_streamed = params.get("stream") and "response_format" not in request
        # Classic tries the next entry after some errors of OpenAI's client.
        with openai_named(), self._agent.use(kernel) as agent:
            completion = _streamed(agent, request) if is_streamed else agent.llm.generate(**request)
        return ChatCompletion.model_validate(write_completion(completion))

    def message_retrieval(
        self, response: ChatCompletion
    ) -> list[str] | list[ChatCompletionMessage]:
        """Return the text of each choice, or its message if it calls tools."""
        messages = [choice.message for choice in response.choices]
        return [m if m.tool_calls else self._formatted(m.content or "") for m in messages]  # type: ignore[return-value] # as classic's own client does

    def cost(self, response: ChatCompletion) -> float:  # noqa: ARG002 - budgets know the prices
        """Return 0: the kernel accounts the costs, by the prices in its configuration."""
        return 0.0

    @staticmethod
    def get_usage(response: ChatCompletion) -> dict[str, Any]:
        """Return the token counts in classic's format."""
        usage = response.usage
        return {
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
            "total_tokens": usage.total_tokens if usage else 0,
            "cost": getattr(response, "cost", 0.0),
            "model": response.model,
        }

    def _request(self, params: Mapping[str, Any], kernel: Kernel) -> dict[str, Any]:
        body = {k: v for k, v in params.items() if k not in _OF_THE_PROVIDER and v is not None}
        if "prompt" in body:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        body["messages"] = [{"role": "user", **message} for message in body["messages"]]
        body["response_format"] = _format(body.get("response_format") or self._format)
        if isinstance(self._timeout, int | float):
            body.setdefault("timeout", self._timeout)
        if self._is_substitute:
            body["model"] = resolve_model(kernel, body.get("model"))
        return read_request(body)

    def _formatted(self, text: str) -> str:
        """Format an answer with the entry's `response_format`, if that class has a `format`."""
        form: Any = self._format
        if hasattr(form, "format") and hasattr(form, "model_validate_json"):
            return str(form.model_validate_json(text).format())
        return text


def _agent_of(config: Mapping[str, Any]) -> AgentRef:
    """Refer to the agent of an entry: the one that it names, else the caller's."""
    agent, options = parse_agent_options(config.get("aios"))
    if not isinstance(agent, Agent) and agent:
        agent = str(agent)
    return AgentRef(directory, _find, agent or None, AgentSettings().updated(options))


def _find(name: str | None, settings: AgentSettings) -> tuple[Caller, AgentSettings]:
    return Caller.named(name, settings.group) if name else find_caller(), settings


def find_caller() -> Caller:
    """Return the caller of the running call, if no agent is named."""
    owner = enclosing_instance((ConversableAgent,))
    if owner is not None and owner.name in _PICKERS:
        owner = enclosing_instance((GroupChatManager,)) or owner
    return current_caller() if owner is None else Caller.of_object(owner, owner.name)


def _streamed(agent: Agent, request: Mapping[str, Any]) -> Completion:
    out = IOStream.get_default()
    with agent.llm.stream(**request) as deltas:
        for delta in deltas:
            if delta.text:
                out.send(StreamEvent(content=delta.text))
        return deltas.completion


def _format(wanted: Any) -> Any:
    """Translate an answer's format, which may be a bare JSON schema in classic."""
    if isinstance(wanted, dict) and wanted.get("type") not in (
        "json_object",
        "json_schema",
        "text",
    ):
        return {"type": "json_schema", "json_schema": {"schema": wanted}}
    return wanted


# --- patches -------------------------------------------------------------------------------------

_patches: Final = Patches()
_lock = threading.Lock()  # guards _patches


def register() -> None:
    """Serve every entry that names `AIOSModelClient`, from now on. Idempotent."""
    with _lock:
        if not _patches:
            _serve(_patches, only_named=True)


def unregister() -> None:
    """Restore classic's own wrappers. Idempotent."""
    with _lock:
        _patches.undo()


def patch_substitute(_: ModuleType, patches: Patches) -> None:
    """Serve every entry, except those with a client class of the program."""
    _serve(patches, only_named=False)
    watch_classic(oai.OpenAIWrapper, patches)


def patch_passthrough(_: ModuleType, patches: Patches) -> None:
    """Schedule the calls of every client of classic's own."""
    wrapper = oai.OpenAIWrapper
    register_theirs = wrapper._register_default_client  # noqa: SLF001 - the one seam there is

    def register_default_client(
        self: Any, config: dict[str, Any], openai_config: dict[str, Any]
    ) -> None:
        register_theirs(self, config, openai_config)
        client = self._clients[-1]
        if not isinstance(client, oai.PlaceHolderClient):
            self._clients[-1] = PassthroughClient(client, config)

    patches.replace(wrapper, "_register_default_client", register_default_client)
    watch_classic(wrapper, patches)


class PassthroughClient:
    """A client of classic's own that the kernel schedules call by call."""

    def __init__(self, client: Any, config: Mapping[str, Any]) -> None:
        self._client = client
        self._agent = _agent_of(config)
        self._limit_name = _limit_name(config)

    def __getattr__(self, name: str) -> Any:
        if name == "_client":  # a copy in the making has none yet: avoid endless recursion
            raise AttributeError(name)
        return getattr(self._client, name)

    def create(self, params: dict[str, Any]) -> Any:
        """Call the provider, in a slot of its model."""
        asked = {key: value for key, value in params.items() if key != "aios"}
        model = str(asked.get("model"))
        kernel = register_provider_model(model)
        raw = asked.get("messages") or [{"content": asked.get("prompt")}]
        known = to_kernel_messages([{"role": "user", **message} for message in raw], read_messages)
        limits = read_answer_limits(asked)
        request: dict[str, Any] = {"messages": known, **limits}
        with self._agent.use(kernel) as agent, passthrough_call(agent, model, **request) as slot:
            own = limits["max_tokens"]
            response = slot.attempt(
                lambda: self._client.create(slot.limiting(asked, self._limit_name, own=own))
            )
            usage = self._client.get_usage(response) or {}
            tokens = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
            slot.record_usage(Usage(*tokens))
            return response


def _limit_name(config: Mapping[str, Any]) -> str:
    """Return the name of the answer limit in the API of an entry's client."""
    kind = str(config.get("api_type") or "openai")
    if kind.startswith("responses"):
        return "max_output_tokens"
    if kind.startswith("ollama"):
        return "num_predict"
    if kind.startswith(("openai", "azure", "open_ai")):
        return limit_parameter(config.get("base_url") or _OPENAI)
    return "max_tokens"


def _serve(patches: Patches, *, only_named: bool) -> None:
    wrapper = oai.OpenAIWrapper
    register_theirs = wrapper._register_default_client  # noqa: SLF001 - the one seam there is

    def register_default_client(
        self: Any, config: dict[str, Any], openai_config: dict[str, Any]
    ) -> None:
        named = config.get("model_client_cls")
        if named != AIOSModelClient.__name__ and (only_named or named is not None):
            register_theirs(self, config, openai_config)
            return
        client = AIOSModelClient({**openai_config, **config}, is_substitute=named is None)
        self._clients.append(client)

    patches.replace(wrapper, "_register_default_client", register_default_client)
