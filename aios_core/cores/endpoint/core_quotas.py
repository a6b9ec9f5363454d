"""The quotas that one core draws on: one for each of its models, shared with other cores."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from aios_core.cores.endpoint.errors import Refusal
from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.quota.costs import CallSize
from aios_core.cores.quota.gate import Permit, QuotaGate, QuotaKey, shared_gate
from aios_core.cores.quota.headers import Dimension
from aios_core.syscalls import LLMGenerate

_TOO_MANY: Final = 429  # other statuses that ask for a pause mean load, not a quota


class CoreQuotas:
    """The quotas of a core by model, from its start on. `on_room` is called when one has room."""

    def __init__(
        self,
        options: QuotaOptions | None,
        *,
        base_url: str,
        api_key: str | None,
        on_room: Callable[[], None],
    ) -> None:
        self._options = options or QuotaOptions()
        self._base_url, self._api_key = base_url, api_key
        self._on_room = on_room
        self._gates: dict[str, QuotaGate] = {}  # by model
        self._stops: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<CoreQuotas of {self._base_url}: {self._gates}>"

    def open(self, models: Sequence[str], *, starts_slowly: bool) -> None:
        """Join the quotas of models. What was learned before a restart is kept."""
        self.close()
        for model in models:
            key = QuotaKey.of(
                self._options, base_url=self._base_url, api_key=self._api_key, model=model
            )
            gate = shared_gate(key, self._options, starts_slowly=starts_slowly)
            self._gates[model] = gate
        self._stops = [gate.listen(self._on_room) for gate in set(self._gates.values())]

    def close(self) -> None:
        """Stop receiving notices."""
        for stop in self._stops:
            stop()
        self._stops = []

    def available_in_s(self) -> float:
        """Return the seconds until one of the quotas has room for a call; 0: now."""
        if len(self._gates) == 1:
            return next(iter(self._gates.values())).available_in_s()
        return min((gate.available_in_s() for gate in set(self._gates.values())), default=0.0)

    def reserve(self, model: str, request: LLMGenerate, prompt_tokens: int) -> Permit:
        """Reserve what a call takes from the quota of its model."""
        size = CallSize(prompt_tokens, request.sampling.max_tokens)
        return self._gates[model].reserve(size)

    def rates_per_minute(self) -> dict[str, dict[str, float]]:
        """Return what is known of each quota, by model and dimension."""
        return {model: gate.governor.rates_per_minute() for model, gate in self._gates.items()}


def refuse(permit: Permit, refusal: Refusal) -> float:
    """Notify a quota of a refusal that asks for a pause. Returns the rest of the pause."""
    pause_s = refusal.retry_after_s() or None  # "0" must not end the core's own back-off
    if refusal.status != _TOO_MANY:
        return permit.paused(pause_s)
    is_of_tokens = "tokens per m" in refusal.message.lower()
    dimension = Dimension.TOKENS if is_of_tokens else Dimension.REQUESTS
    return permit.refused(refusal.headers, pause_s, dimension)


def is_self_hosted(base_url: str) -> bool:
    """Return whether an endpoint is on this machine or in a private network."""
    host = urlsplit(base_url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
    return address.is_private or address.is_loopback
