"""Everything the kernel raises on purpose, arranged by what the caller can do about it.

    KernelError
    ├── InvalidRequest           fix the request; repeating it cannot work
    │   ├── ContextOverflow      the prompt does not fit the model's context window
    │   ├── NoSuchObject         unknown model, policy, agent or tool; names the known ones
    │   └── ConfigError          a key of the configuration has a bad name or value
    ├── RetryLater               nothing is wrong; wait `retry_after_s` seconds and repeat
    │   ├── Overloaded           a bounded queue is full
    │   ├── RateLimited          a core's provider refuses more for now
    │   └── CoreUnavailable      no core that serves the model answers at present
    ├── LimitReached             the agent used up what it was given; ask its owner for more
    │   ├── BudgetExceeded       tokens, money, calls or wall time
    │   ├── RunawayStopped       it repeats itself, spawns too deep or calls too often
    │   └── AccessDenied         it lacks the privilege
    ├── Interrupted              the call was ended from outside, its work is lost
    │   ├── DeadlineExceeded     its deadline passed
    │   ├── SyscallCancelled     its caller, its agent's death or a person withdrew it
    │   └── KernelClosed         the kernel shuts down, or did already
    ├── BackendError             something outside the kernel failed; see ``__cause__``
    │   ├── CoreError            a core failed while serving the call
    │   ├── OutOfMemory          the device has no room for this call
    │   ├── ModelLoadError       a model's files are missing or damaged
    │   └── SnapshotError        a snapshot is damaged or belongs to another model
    ├── WouldBlock               a blocking call was made on the kernel's own loop
    └── KernelBug                an invariant broke; never caught, always a defect

Foreign exceptions are converted at the seam with ``raise ... from exc``. An
error never travels as a string, and its facts are attributes.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AccessDenied",
    "BackendError",
    "BudgetExceeded",
    "ConfigError",
    "ContextOverflow",
    "CoreError",
    "CoreUnavailable",
    "DeadlineExceeded",
    "Interrupted",
    "InvalidRequest",
    "KernelBug",
    "KernelClosed",
    "KernelError",
    "LimitReached",
    "ModelLoadError",
    "NoSuchObject",
    "OutOfMemory",
    "Overloaded",
    "RateLimited",
    "RetryLater",
    "RunawayStopped",
    "SnapshotError",
    "SyscallCancelled",
    "WouldBlock",
]


class KernelError(Exception):
    """Root of every exception that the kernel raises on purpose."""


class InvalidRequest(KernelError):
    """The request is malformed; repeating it unchanged cannot work."""


class ContextOverflow(InvalidRequest):
    """The prompt leaves no room for an answer in the model's context window."""

    def __init__(self, num_tokens: int, context_window: int, model: str) -> None:
        super().__init__(
            f"the prompt has {num_tokens} tokens; {model!r} has a context window of "
            f"{context_window} tokens, of which the answer needs at least one"
        )
        self.num_tokens = num_tokens
        self.context_window = context_window
        self.model = model


class NoSuchObject(InvalidRequest):
    """The request names something that does not exist."""

    def __init__(self, kind: str, name: object, known: Iterable[object] = ()) -> None:
        have = sorted(map(str, known))
        super().__init__(f"no {kind} {name!r}; have {have}" if have else f"no {kind} {name!r}")
        self.kind = kind
        self.name = name
        self.known = tuple(have)


class ConfigError(InvalidRequest):
    """A configuration key is unknown, or its value is not one of those allowed."""

    def __init__(self, key: str, got: object, allowed: str, source: str = "") -> None:
        where = f" (from {source})" if source else ""
        super().__init__(f"{key}{where}: got {got!r}; allowed: {allowed}")
        self.key = key
        self.got = got
        self.allowed = allowed
        self.source = source


class RetryLater(KernelError):
    """The same request may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(f"{message}; retry in {retry_after_s:.3g} s")
        self.retry_after_s = retry_after_s


class Overloaded(RetryLater):
    """A bounded queue is full."""

    def __init__(self, queue: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{queue} is full at {limit} calls", retry_after_s)
        self.queue = queue
        self.limit = limit


class RateLimited(RetryLater):
    """The provider behind a core accepts no more for now (HTTP 429)."""


class CoreUnavailable(RetryLater):
    """No core that serves the model answers at present."""


class LimitReached(KernelError):
    """The agent used up something that it was given."""


class BudgetExceeded(LimitReached):
    """A call would spend more than is left of a budget; it was not started."""

    def __init__(
        self, owner: str, resource: str, limit: float, committed: float, requested: float
    ) -> None:
        super().__init__(
            f"{owner} has {max(0, limit - committed):g} of {limit:g} {resource} left "
            f"and the call may need {requested:g}"
        )
        self.owner = owner
        self.resource = resource
        self.limit = limit
        self.committed = committed
        self.requested = requested


class RunawayStopped(LimitReached):
    """An agent repeats itself, has too deep a family or makes too many calls."""


class AccessDenied(LimitReached):
    """The calling agent lacks the privilege for this request."""

    def __init__(self, pid: int, action: str, target: str) -> None:
        super().__init__(f"agent {pid} may not {action} {target!r}")
        self.pid = pid
        self.action = action
        self.target = target


class Interrupted(KernelError):
    """The call was ended from outside before it had an answer."""


class DeadlineExceeded(Interrupted):
    """The deadline of the call passed first."""

    def __init__(self, timeout_s: float, doing: str) -> None:
        super().__init__(f"no answer within {timeout_s:g} s; the call was {doing}")
        self.timeout_s = timeout_s
        self.doing = doing


class SyscallCancelled(Interrupted):
    """The caller, the death of its agent, or a person withdrew the call."""


class KernelClosed(Interrupted):
    """The kernel is shutting down or was never started."""


class BackendError(KernelError):
    """A core, a store or a tool outside the kernel failed; see ``__cause__``."""


class CoreError(BackendError):
    """A core failed while serving a call.

    `is_retryable` says whether the same call may be sent again, here or to
    another core, without the risk of doing something twice.
    """

    def __init__(self, core: str, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(f"core {core!r}: {message}")
        self.core = core
        self.is_retryable = is_retryable


class OutOfMemory(BackendError):
    """The device has no room for this call; others go on."""

    def __init__(self, core: str, message: str) -> None:
        super().__init__(f"core {core!r} is out of memory: {message}")
        self.core = core


class ModelLoadError(BackendError):
    """A model cannot be loaded: a file is missing or damaged, or its kind is not supported."""


class SnapshotError(BackendError):
    """A snapshot is damaged, or belongs to another model or number format."""


class WouldBlock(KernelError):
    """A blocking call was made on the kernel's own loop, where it could never return."""


class KernelBug(KernelError):
    """An invariant does not hold. Fix the kernel; do not catch this."""
