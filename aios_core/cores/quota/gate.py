"""The governor of a quota on an event loop: calls wait here, and several cores share it.

    gate = shared_gate(QuotaKey(base_url, api_key, model), options, starts_slowly=True)
    permit = gate.reserve(size)          # at once, in the scheduler's order
    await permit.granted()               # before the request is sent
    permit.accepted(headers)             # the response has begun
    permit.refused(headers, pause_s)     # ... or a 429 came, also in the middle of an answer
    permit.settle(input_tokens, output_tokens)
    permit.end()                         # always, and idempotent

While a call waits here, `available_in_s` keeps the scheduler from giving more, so at most one
call of each core waits outside of the scheduler's order.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakValueDictionary

from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.quota.costs import LEAST, CallSize, Cost, CostEstimator, cost_of
from aios_core.cores.quota.governor import Governor, Lease
from aios_core.cores.quota.headers import Dimension, read_headers


class Permit:
    """The place of one call in a quota: it waits, leaves, is answered, and ends."""

    def __init__(self, gate: QuotaGate, size: CallSize, cost: Cost) -> None:
        self._gate = gate
        self._size = size
        self.cost = cost
        self.lease: Lease | None = None
        self.granting: asyncio.Future[None] | None = None
        self.asked_at = gate.now()
        self.waited_s = 0.0

    async def granted(self) -> None:
        """Wait until the call may leave."""
        if self.granting is not None:
            await self.granting

    def accepted(self, headers: Mapping[str, str]) -> None:
        """Record that the endpoint serves the call, and read what it reports."""
        if self.lease is not None:
            gate = self._gate
            gate.governor.accepted(self.lease, gate.now(), read_headers(headers))
            gate.changed()

    def refused(
        self,
        headers: Mapping[str, str],
        pause_s: float | None,
        dimension: Dimension = Dimension.REQUESTS,
    ) -> float:
        """Record a refusal for the rate. Returns the pause of the quota in seconds."""
        gate = self._gate
        if self.lease is None:
            return gate.pause_left_s()
        left_s = gate.governor.refused(
            self.lease,
            gate.now(),
            pause_s=pause_s,
            readings=read_headers(headers),
            dimension=dimension,
        )
        gate.changed()
        return left_s

    def paused(self, pause_s: float | None) -> float:
        """Record a pause that has nothing to do with the quota. Returns what is left of it."""
        gate = self._gate
        if self.lease is not None:
            gate.governor.paused(self.lease, gate.now(), pause_s)
            gate.changed()
        return gate.pause_left_s()

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """Replace the estimated tokens by those that the call used."""
        if self.lease is not None:
            gate = self._gate
            gate.estimator.learn(self._size, input_tokens, output_tokens)
            gate.governor.settle(self.lease, gate.now(), cost_of(input_tokens, output_tokens))

    def end(self) -> None:
        """End the call, wherever it is. Idempotent."""
        self._gate.leave(self)


class QuotaGate:
    """One quota, for all cores that draw on it. Used on one event loop."""

    def __init__(
        self, options: QuotaOptions, *, loop: asyncio.AbstractEventLoop, starts_slowly: bool
    ) -> None:
        self._now = loop.time
        self._call_at = loop.call_at
        self.governor = Governor(options, now=loop.time(), starts_slowly=starts_slowly)
        self.estimator = CostEstimator()
        self._waiting: deque[Permit] = deque()
        self._listeners: list[Callable[[], None]] = []
        self._was_full = False  # a core was asked to wait, and is notified of a change
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<QuotaGate: {len(self._waiting)} wait, {self.governor!r}>"

    def now(self) -> float:
        """Return the time of the loop in seconds."""
        return self._now()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when calls may leave again. Returns a function that ends this."""
        self._listeners.append(listener)
        return lambda: self._forget(listener)

    def available_in_s(self) -> float:
        """Return the seconds until another call may be given; 0: now."""
        cost = self._waiting[0].cost if self._waiting else LEAST
        left_s = self.governor.wait_s(self._now(), cost)
        if self._waiting:
            left_s = max(left_s, 1e-3)  # those that wait go first
        if left_s > 0:
            self._was_full = True
            self._wake_in(left_s)
        return left_s

    def pause_left_s(self) -> float:
        """Return the rest of the pause that the endpoint asked for."""
        return self.governor.pause_left_s(self._now())

    def reserve(self, size: CallSize) -> Permit:
        """Reserve what a call takes, or let it wait for that, first come first served."""
        permit = Permit(self, size, self.estimator.estimate(size))
        if not self._waiting and self.governor.wait_s(self._now(), permit.cost) <= 0:
            permit.lease = self.governor.reserve(self._now(), permit.cost)
        else:
            permit.granting = asyncio.get_running_loop().create_future()
            self._waiting.append(permit)
            self._wake_in(self.governor.wait_s(self._now(), permit.cost))
        return permit

    def leave(self, permit: Permit) -> None:
        """Remove a call that ended, or that waits no longer."""
        if permit.lease is not None:
            self.governor.end(permit.lease)
        elif permit in self._waiting:
            self._waiting.remove(permit)
            if permit.granting is not None:
                permit.granting.cancel()
        self.changed()

    def changed(self) -> None:
        """Let calls leave for which there is room now, and notify the cores."""
        self._grant()
        if self._was_full and not self._waiting:
            left_s = self.governor.wait_s(self._now(), LEAST)
            if left_s > 0:
                self._wake_in(left_s)
            else:
                self._was_full = False
                for listener in tuple(self._listeners):
                    listener()

    def close(self) -> None:
        """Stop the timer; called when no core uses the quota."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    # --- internals ----------------------------------------------------------------------------

    def _grant(self) -> None:
        while self._waiting:
            permit, now = self._waiting[0], self._now()
            left_s = self.governor.wait_s(now, permit.cost)
            if left_s > 0:
                self._wake_in(left_s)
                return
            self._waiting.popleft()
            if permit.granting is None or permit.granting.done():
                continue  # withdrawn meanwhile
            permit.lease = self.governor.reserve(now, permit.cost)
            permit.waited_s = now - permit.asked_at
            permit.granting.set_result(None)

    def _wake_in(self, seconds: float) -> None:
        due = self._now() + seconds
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.changed()

    def _forget(self, listener: Callable[[], None]) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            self.close()


@dataclass(frozen=True, slots=True)
class QuotaKey:
    """Which quota a call draws on: a name, or an endpoint with a key and a model."""

    name: str

    @classmethod
    def of(
        cls, options: QuotaOptions, *, base_url: str, api_key: str | None, model: str
    ) -> QuotaKey:
        """Return the key of a quota. It holds a hash of the secret, not the secret."""
        if options.quota is not None:
            return cls(f"name {options.quota}")
        secret = hashlib.sha256((api_key or "").encode()).hexdigest()
        return cls(f"{base_url} {secret} {model}")


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[QuotaKey, QuotaGate]] = (
    WeakKeyDictionary()
)


def shared_gate(key: QuotaKey, options: QuotaOptions, *, starts_slowly: bool) -> QuotaGate:
    """Return the gate of a quota on the running loop; it lives as long as a core holds it.

    If several cores share it and set different limits, the smallest count.
    """
    loop = asyncio.get_running_loop()
    gates = _gates.setdefault(loop, WeakValueDictionary())
    gate = gates.get(key)
    if gate is None:
        gate = gates[key] = QuotaGate(options, loop=loop, starts_slowly=starts_slowly)
    elif options != gate.governor.options:
        gate.governor.tighten(options, gate.now())
    return gate
